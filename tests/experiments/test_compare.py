"""Two runs by every name that they have, with figures that follow from their ranks, and what cannot be paired."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.errors import DataError
from llmsrec.evaluation.metrics import ndcg
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.experiments import compare
from llmsrec.registry import names


@pytest.fixture
def sides(pair: Any, tmp_path: Path) -> list[compare.Side]:
    client = MlflowClient(pair.uri)
    named = [names.find(client, pair.root, "compared", name) for name in ("1", "2")]
    return [compare.load(client, one, tmp_path / one.name) for one in named]


def test_every_name_of_a_run(pair: Any) -> None:
    client = MlflowClient(pair.uri)
    title = "no uniformity on Sample, embedded (tubby-gobs)"
    expected = {
        "1": (pair.full, "compared/1"),
        "2": (pair.ablated, "compared/2"),
        "staging": (pair.full, "compared/1"),
        "models:/compared@staging": (pair.full, "compared/1"),
        "models:/compared/2": (pair.ablated, "compared/2"),
        "compared@staging": (pair.full, "compared/1"),
        "compared/2": (pair.ablated, "compared/2"),
        pair.ablated: (pair.ablated, None),
        title: (pair.ablated, None),
        title.removesuffix(" (tubby-gobs)"): (pair.ablated, None),
        "tubby-gobs": (pair.ablated, "compared/2"),
        "HEAD": (pair.full, "compared/1"),
        "HEAD~1": (pair.ablated, "compared/2"),
        "workspace": (pair.full, "compared/1"),
    }
    for name, actual in expected.items():
        one = names.find(client, pair.root, "compared", name)
        assert (one.run_id, one.version) == actual, name


@pytest.mark.parametrize(
    "name", ["9", "nobody", "models:/compared@nobody", "models:/gone/1", "gone/1", "gone@staging", "f" * 32, 'a"b']
)
def test_a_name_that_means_nothing(pair: Any, name: str) -> None:
    with pytest.raises(DataError, match=r"nothing is called .*; `mlflow runs search`"):
        names.find(MlflowClient(pair.uri), pair.root, "compared", name)


@pytest.mark.parametrize(
    ("name", "near"), [("stagging", "staging"), ("no uniformty on Sample", "no uniformity on Sample, embedded")]
)
def test_a_misspelt_name_is_told_the_nearest(pair: Any, name: str, near: str) -> None:
    with pytest.raises(DataError, match=f"nothing is called '{name}'; did you mean '{near}.*'. Model compared has"):
        names.find(MlflowClient(pair.uri), pair.root, "compared", name)


def test_the_figures_follow_from_the_ranks(pair: Any, sides: list[compare.Side]) -> None:
    actual = compare.between(*sides, Bootstrap(200, 1))
    assert (actual.why_unpaired, actual.users) == (None, 60)
    rows = {(row.what, row.protocol, row.metric): row for row in actual.rows}
    assert {row.model for row in actual.rows} == {"llm_srec"}  # the teacher is the same
    values = []
    for run in (pair.full, pair.ablated):
        of_run = pair.ranks[run].filter(model="llm_srec", protocol="full").sort("user_id")
        values.append(
            {split: ndcg(of_run.filter(split=split)["rank"].to_numpy(), 10) for split in ("test", "test_shuffled")}
        )
    row = rows["test", "full", "ndcg_10"]
    change = values[1]["test"] - values[0]["test"]
    assert (row.a, row.b, row.users) == (values[0]["test"].mean(), values[1]["test"].mean(), 60)
    assert row.difference and row.difference["difference"] == pytest.approx(change.mean())
    spread = 1.96 * change.std() / 60**0.5
    assert row.difference["high"] - row.difference["low"] == pytest.approx(2 * spread, rel=0.2)
    warm = np.arange(60) % 3 == 0
    assert (rows["warm", "full", "ndcg_10"].b, rows["warm", "full", "ndcg_10"].users) == (
        values[1]["test"][warm].mean(),
        20,
    )
    lost = [of["test_shuffled"] - of["test"] for of in values]
    assert rows["shuffle", "full", "ndcg_10"].a == pytest.approx(lost[0].mean())
    more_lost = rows["shuffle", "full", "ndcg_10"].difference
    assert more_lost and more_lost["difference"] == pytest.approx((lost[1] - lost[0]).mean())


def test_another_teacher_is_shown(sides: list[compare.Side]) -> None:
    ranks = sides[1].ranks
    assert ranks is not None
    other = dataclasses.replace(sides[1], ranks=ranks.with_columns(rank=ranks["rank"] + (ranks["model"] == "sasrec")))
    assert {row.model for row in compare.between(sides[0], other, Bootstrap(100, 0)).rows} == {"llm_srec", "sasrec"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ranks": None}, "B keeps no ranks"),
        ({"common": {"interactions.parquet": "i" * 64, "candidates.parquet": "x"}}, "other candidates"),
        ({"common": {"interactions.parquet": "x", "candidates.parquet": "x"}}, "other users, items or events"),
        ({"common": {}}, "other users, items or events"),
    ],
)
def test_what_cannot_be_paired_is_said_and_shown_side_by_side(
    sides: list[compare.Side], change: dict[str, Any], why: str
) -> None:
    actual = compare.between(sides[0], dataclasses.replace(sides[1], **change), Bootstrap(100, 0))
    assert actual.why_unpaired is not None and why in actual.why_unpaired
    assert "paired comparison is not possible" in actual.text()
    assert all(row.difference is None for row in actual.rows)
    shown = {(row.what, row.protocol, row.metric): (row.a, row.b) for row in actual.rows}
    assert shown["test", "full", "hr_20"] == tuple(side.metrics["test/full/hr_20"] for side in sides)
    assert shown["warm", "uni99", "ndcg_10"] == tuple(side.metrics["test/uni99/ndcg_10/warm"] for side in sides)


def test_the_command_line_prints_and_writes(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(pair.root))
    markdown, png = tmp_path / "found.md", tmp_path / "found.png"
    assert (
        cli.main(["compare", "staging", "tubby-gobs", "--markdown", str(markdown), "--png", str(png)]) == 0
    )  # with the latency
    shown, written = capsys.readouterr().out, markdown.read_text()
    for text in (shown, written):
        assert "staging: compared/1, run " in text and "no uniformity on Sample, embedded (tubby-gobs)" in text
        assert "over the same 60 users and candidates" in text
        assert re.search(r"cf p99, ms[ |]+\d+\.\d[ |]+\d+\.\d", text), text
        assert re.search(r"items[ |]+30[ |]+30", text)
    assert [line.split() for line in shown.splitlines() if "model.uniform" in line] == [
        ["model.uniform", "True", "False"]
    ]
    assert "| model.uniform | True | False |" in written
    assert png.read_bytes().startswith(b"\x89PNG") and 10_000 < png.stat().st_size < 150_000

    assert cli.main(["compare", "staging", "nobody"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_artifacts_that_are_gone_are_one_error(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(pair.root))
    reports = Path(urlparse(MlflowClient(pair.uri).get_run(pair.ablated).info.artifact_uri).path) / "reports"
    shutil.move(reports, tmp_path / "reports")
    try:
        assert cli.main(["compare", "1", "2", "--no-latency"]) == 0
        shown = capsys.readouterr().out
        assert "B keeps no ranks of its users" in shown and "Latency" not in shown
    finally:
        shutil.move(tmp_path / "reports", reports)


@pytest.mark.parametrize("file", ["ranks.parquet", "slices.parquet"])
def test_tables_that_were_cut_off_are_one_error(
    pair: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(pair.root))
    path = Path(urlparse(MlflowClient(pair.uri).get_run(pair.ablated).info.artifact_uri).path) / "reports" / file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        assert cli.main(["compare", "1", "2", "--no-latency"]) == 1
    finally:
        path.write_bytes(whole)
    said = capsys.readouterr().err
    assert f"{file} cannot be read as parquet" in said and f"run {pair.ablated} were altered" in said
    assert said.count("\n") == 1
