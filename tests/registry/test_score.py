"""`llmsrec score` with a version of the registry."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmsrec import cli


@pytest.mark.parametrize("model", ["models:/llm-srec@candidate", "models:/llm-srec/1"])
def test_the_version_behind_an_alias_is_written_down(
    model: str, registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(registry.root))
    read, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    read.write_text(json.dumps({"user_id": "a", "history": [{"parent_asin": "B1", "timestamp": 1391040000000}]}))
    options = ["--tower", "cf", "--k", "4", "--histories", str(read), "--out", str(out)]
    assert cli.main(["score", "--model", model, *options]) == 0
    assert "4 rows of 1 users by llm-srec/1, tower cf" in capsys.readouterr().out
    assert pl.read_parquet(out)["version"].to_list() == ["llm-srec/1"] * 4


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("models:/llm-srec@nothing", "llm-srec has no version or alias 'nothing'; versions: 1"),
        ("models:/llm-srec/99", "llm-srec has no version or alias '99'"),
        ("models:/llm-srec", '"models:/llm-srec" names no version; a version is named by its number or an alias'),
        ("nothing", "llm-srec has no version or alias 'nothing'; versions: 1"),  # no params.yaml: llm-srec's
    ],
)
def test_no_such_version_is_one_line(
    model: str,
    said: str,
    registry: Any,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path_factory.mktemp("root")))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    read, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    read.write_text('{"user_id": "a", "history": []}')
    assert cli.main(["score", "--model", model, "--histories", str(read), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [read]
