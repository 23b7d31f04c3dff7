"""The stage `titles` as baselines/dvc.yaml runs it, on both kinds of split."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmsrec.data import choices, split
from llmsrec.files import read_json, sha256

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tiny: Any, tmp_path: Path) -> Path:
    """The code beside data of 30 items."""
    for name in ("src", "stages", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "baselines", tmp_path / "baselines")
    shutil.copytree(tiny.folder / "data/filtered", tmp_path / "data/filtered")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/passed.txt").write_text("All checks passed.\n")
    return tmp_path


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, "-m", "stages.titles"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("shares", [None, (0.1, 0.1)], ids=["last", "time"])
def test_each_target_has_20_titles_and_a_second_run_writes_the_same(
    repository: Path, shares: tuple[float, float] | None
) -> None:
    split.split_interactions(repository / "data/filtered", repository / "data/split", 9, False, 0, shares)
    done = run(repository)
    assert done.returncode == 0, done.stderr
    path = repository / "data/titles/candidates.parquet"
    targets = pl.read_parquet(repository / "data/split/candidates.parquet")
    written = pl.read_parquet(path)
    assert written.select("user_id", "split", "item_id").equals(targets.select("user_id", "split", "item_id"))
    assert done.stdout.startswith(f"{len(targets)} lists of 20 titles, out of 30 distinct ones")
    manifest = read_json(repository / "data/titles/manifest.json")
    assert manifest["outputs"] == {"candidates.parquet": sha256(path)}
    before = path.read_bytes()
    assert run(repository).returncode == 0
    assert path.read_bytes() == before


def test_a_catalogue_of_too_few_titles_is_one_line_and_nothing_is_written(repository: Path) -> None:
    split.split_interactions(repository / "data/filtered", repository / "data/split", 9, False, 0)
    items = repository / "data/filtered/items.parquet"
    number = pl.col("item_id").cast(pl.Int64) % 15
    pl.read_parquet(items).with_columns(title=pl.format("Bottle {}", number)).write_parquet(items)
    done = run(repository)
    assert done.returncode == 1
    assert done.stderr.startswith("error in stage titles: the catalogue has 15 distinct titles")
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert not (repository / "data/titles").exists()
    assert choices.COUNT == 20
