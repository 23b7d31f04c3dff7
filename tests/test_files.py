import resource
from pathlib import Path

import pytest

from llmsrec.errors import DataError
from llmsrec.files import atomic, read_json, sha256, write_json


def test_json_goes_out_and_in_and_equal_values_are_equal_files(tmp_path: Path) -> None:
    write_json(tmp_path / "sub" / "a.json", {"b": 1, "a": "ü"})
    write_json(tmp_path / "b.json", {"a": "ü", "b": 1})
    assert read_json(tmp_path / "b.json") == {"a": "ü", "b": 1}
    assert (tmp_path / "sub" / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_full_disk_is_a_clear_error_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write .*unchanged"), atomic(path) as temporary:
            temporary.write_bytes(b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_missing_and_broken_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_a_folders_digest_covers_names_and_contents(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return sha256(folder)

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1", b="2"), digest(a="2", b="1"), digest(a="12"), digest(a="1", c="2")}) == 4
    assert digest(a="1") == digest(a="1", **{"__pycache__/a.pyc": "x"}), "byte code is not code"
