"""A disk that is full or closed is one line, whichever library meets it; what was there stays (tests/test_files.py)."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from llmsrec import cli
from llmsrec.errors import DataError, explained
from llmsrec.files import atomic
from stages import common

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = np.random.default_rng(0).integers(0, 1 << 60, 20_000)
WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(bytes(100_000)),
    "copy": lambda path: shutil.copyfile(ROOT / "params.yaml", path),
    "polars": lambda path: pl.DataFrame({"a": NUMBERS}).write_parquet(path),
    "arrow": lambda path: pq.write_table(pa.table({"a": NUMBERS}), path),
    "safetensors": lambda path: save_file({"a": NUMBERS}, path),
    "matplotlib": lambda path: Figure().savefig(path, format="png", dpi=300),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_each_librarys_refusal_is_one_line(writer: str, full: None, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        WRITERS[writer](tmp_path / "file")
    path = tmp_path / "whole"
    with pytest.raises(DataError, match=f"cannot write {path}: File too large.*unchanged"), atomic(path) as temporary:
        WRITERS[writer](temporary)
    said = explained(caught.value)  # each library has its own error
    assert said and "File too large" in said and "\n" not in said, repr(caught.value)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device; free some space, then"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "Read-only file system; the file system can only be read"),
        (errno.EACCES, "Permission denied; fix the permissions"),
    ],
)
def test_a_stage_and_a_command_say_it_without_a_traceback(
    number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "models/x"))

    monkeypatch.setattr(common, "load", fail)
    with pytest.raises(SystemExit, match="1"):
        common.run(fail, "export")
    stage = capsys.readouterr().err
    monkeypatch.setattr(cli, "summary", fail)
    assert cli.main(["summary"]) == 1
    command = capsys.readouterr().err
    for line in (stage, command):
        assert f"cannot use {tmp_path}/models/x" in line and said in line and line.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    for error in (ValueError("shapes differ"), KeyError("x"), FileNotFoundError(errno.ENOENT, "no such file", "x")):
        assert explained(error) is None


def test_a_stage_on_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """The real `split` in a process of its own, as DVC runs it."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src").symlink_to(ROOT / "src")
    filtered, old = tmp_path / "data/filtered", tmp_path / "data/split/train.parquet"
    for folder in (filtered, old.parent):
        folder.mkdir(parents=True)
    users = np.repeat(np.arange(1, 2001, dtype=np.int32), 5)
    items = (np.arange(len(users), dtype=np.int64) * 7919 % 2000 + 1).astype(np.int32)
    events = {"user_id": users, "item_id": items, "timestamp": np.tile(np.arange(5), 2000) + 10**12}
    pl.DataFrame(events).write_parquet(filtered / "interactions.parquet")
    names = {"item_id": np.arange(1, 2001, dtype=np.int32)}
    pl.DataFrame(names).with_columns(parent_asin=pl.lit("B"), title=pl.lit("t")).write_parquet(
        filtered / "items.parquet"
    )
    (filtered / "manifest.json").write_text("{}")
    old.write_text("old")
    command = f"ulimit -f 2; exec {sys.executable} -m stages.split"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error in stage split: cannot write data/"), done.stderr
    assert "train.00000.parquet: File too large" in done.stderr
    assert old.read_text() == "old" and [path.name for path in old.parent.iterdir()] == ["train.parquet"]
