"""The file of new items: what is read, and what is refused, in one line each."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmsrec import cli
from llmsrec.errors import DataError
from llmsrec.items import lines
from tests.items.conftest import NEW, Extended, write

GOOD = {"parent_asin": "N1", "title": "A"}
KNOWN = pl.Series(["B1", "B2"])


def test_plain_and_gzip_are_read_alike(tmp_path: Path) -> None:
    plain = write(tmp_path / "new.jsonl", NEW)
    packed = tmp_path / "new.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes() + b"\n\n"))
    assert lines.read(plain, KNOWN).equals(lines.read(packed, KNOWN))
    assert lines.read(plain, KNOWN).columns == ["parent_asin", "title", "store", "categories"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([GOOD, {"parent_asin": "B2", "title": "A"}], 'line 2: `parent_asin` is "B2", which the version\'s catalogue'),
        ([GOOD, {"parent_asin": "N2"}], "line 2: `title` is missing"),
        ([GOOD, {"parent_asin": "N2", "title": " \u200b"}], "line 2: the item has no title"),
        ([{"parent_asin": "N2", "title": "N/A"}], "line 1: the item has no title"),
        ([{"parent_asin": "N2", "title": 5}], "line 1: `title` is 5: must be a text"),
        ([{"title": "A"}], "line 1: `parent_asin` is missing"),
        ([{"parent_asin": "", "title": "A"}], 'line 1: `parent_asin` is ""'),
        ([{"parent_asin": "x" * 300, "title": "A"}], "line 1: `parent_asin` is"),
        ([{**GOOD, "categories": "not" and [1]}], "line 1: `categories.0` is 1"),
        ([GOOD, {"parent_asin": "N2", "title": "B"}, GOOD], 'line 3: `parent_asin` is "N1", as in line 1; remove one'),
        (["a text"], "line 1: `` is"),
        ([], "holds no items"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_its_number(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        lines.read(write(tmp_path / "new.jsonl", rows), KNOWN)
    assert said.replace("line 1: `` is", "line 1: ") in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path / "new.jsonl") in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            json.dumps(GOOD).encode() + b"\n\n{broken\n",
            "line 3: not valid JSON: a name in double quotes is missing at column 2, near",
        ),
        (b'{"parent_asin": "N1", "title": "\xff"}\n', "line 1: not valid JSON: it is not UTF-8 from byte 32 on"),
        (gzip.compress(json.dumps(GOOD).encode(), mtime=0)[:-9], "cannot be read to its end"),
        (b"", "holds no items"),
        (b"[" * 10_000, "line 1: not valid JSON: it is nested too deeply"),
    ],
)
def test_a_file_that_is_broken_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=said):
        lines.read(tmp_path / "new.jsonl", KNOWN)


@pytest.mark.parametrize(
    ("file", "model", "said"),
    [
        ("missing.jsonl", "gated/1", "missing.jsonl is not a file"),
        (".", "gated/1", "is not a file"),
        ("new.jsonl", "gated/99", "gated has no version or alias '99'"),
        ("new.jsonl", "nothing@staging", "nothing"),
        ("new.jsonl", "a:b", "names no version"),
        ("known.jsonl", "gated/1", "known.jsonl, line 1"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_leaves_the_registry_as_it_was(
    extended: Extended, file: str, model: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(extended.root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write(extended.root / "known.jsonl", [{"parent_asin": "B1", "title": "A"}])
    before = len(extended.client.search_model_versions("name = 'gated'"))
    assert cli.main(["items", "add", str(extended.root / file), "--model", model]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and error.startswith("llmsrec items: ")
    assert len(extended.client.search_model_versions("name = 'gated'")) == before


def test_help_shows_an_example(capsys: Any) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["items", "add", "--help"])
    assert "llmsrec items add new.jsonl --model" in capsys.readouterr().out.partition("example:")[2]
