"""Pairs and tables on hand-made ranks, with exact answers."""

import numpy as np
import polars as pl
import pytest

from llmsrec.evaluation import pair_plot, pairs, report, tables
from llmsrec.evaluation.names import TITLES
from llmsrec.evaluation.significance import Bootstrap

SPLITS, PROTOCOLS = ("test", "test_shuffled"), ("full", "uni99")


def frame(folder, **ranks):
    """LLM-SRec's ranks by split, under both protocols; SASRec is always first."""
    first = np.zeros(len(ranks["test"]), dtype=np.int32)
    models = {
        "llm_srec": {split: {p: np.array(ranks[split], dtype=np.int32) for p in PROTOCOLS} for split in SPLITS},
        "sasrec": {split: dict.fromkeys(PROTOCOLS, first) for split in SPLITS},
    }
    report.write_ranks(folder / "ranks.parquet", models)
    return pl.read_parquet(folder / "ranks.parquet")


def test_users_are_pairs_whatever_the_order_of_the_rows(tmp_path):
    a = frame(tmp_path, test=[0, 0, 50, 50], test_shuffled=[50, 0, 50, 50])
    b = frame(tmp_path, test=[0, 0, 0, 50], test_shuffled=[0, 0, 0, 50])[::-1]
    slices = pl.DataFrame({"user_id": [2, 1, 4, 3], "warm": [True, False, False, True], "none": [False] * 4})
    rows = {(row.what, row.protocol, row.metric): row for row in pairs.compare(a, b, slices, Bootstrap(100, 0))}
    assert {what for what, _, _ in rows} == {"test", "test_shuffled", "shuffle", "warm"}
    row = rows["test", "full", "hr_10"]
    assert (row.model, row.users, row.a, row.b) == ("llm_srec", 4, 0.5, 0.75)
    assert row.difference["difference"] == 0.25 and row.difference["relative"] == 0.5
    assert rows["shuffle", "uni99", "ndcg_10"].difference["difference"] == 0.25  # A loses a quarter, B nothing
    warm = rows["warm", "full", "ndcg_10"]
    assert (warm.users, warm.a, warm.b) == (2, 0.5, 1.0)


def test_equal_runs_differ_by_nothing_for_sure(tmp_path):
    a = frame(tmp_path, test=[0, 5, 50], test_shuffled=[1, 2, 3])
    assert all(
        (row.difference["difference"], row.difference["low"], row.difference["high"]) == (0, 0, 0)
        for row in pairs.compare(a, a, None, Bootstrap(100, 0))
    )


def test_a_picture_with_and_without_pairs(tmp_path):
    a = frame(tmp_path, test=[0, 5, 50], test_shuffled=[1, 2, 3])
    for name, rows in (
        ("paired", pairs.compare(a, a, None, Bootstrap(100, 0))),
        ("unpaired", pairs.unpaired({"test/full/ndcg_10": 0.5}, {"test/full/ndcg_10": 0.25})),
    ):
        pair_plot.plot(tmp_path / f"{name}.png", rows, ("a", "b"))
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_tables_for_a_terminal_and_as_markdown():
    table = tables.Table("Sizes", ("", "A", "B"), [("items", "9", "10"), ("a|b", "1,000", "-")], "a note")
    assert tables.text([table, table]).split("\n\n")[0] == (
        "Sizes\na note\n             A   B\n  items      9  10\n  a|b    1,000   -"
    )
    assert tables.markdown([table]) == (
        "### Sizes\n\na note\n\n|  | A | B |\n| :-- | --: | --: |\n| items | 9 | 10 |\n| a\\|b | 1,000 | - |\n"
    )


def test_a_change_ratio_agrees_with_drawing_users():
    random = np.random.default_rng(0)
    theirs = (random.random(400) < 0.4).astype(float)
    ours = theirs * (random.random(400) < 0.8)
    actual = Bootstrap(5000, 1).change(ours, theirs)
    draws = [random.integers(0, 400, 400) for _ in range(5000)]
    low, high = np.percentile([ours[users].mean() / theirs[users].mean() - 1 for users in draws], [2.5, 97.5])
    assert actual["change"] == pytest.approx(ours.mean() / theirs.mean() - 1)
    assert (actual["low"], actual["high"]) == pytest.approx((low, high), abs=0.01)
    assert Bootstrap(100, 0).change(ours, np.zeros(400)) == {}
    with pytest.raises(ValueError, match="same users"):
        Bootstrap(100, 0).change(ours, theirs[1:])


def test_only_protocols_that_both_were_ranked_under_are_compared(tmp_path):
    titles = {split: {p: np.array([0, 3], dtype=np.int32) for p in TITLES} for split in SPLITS}
    report.write_ranks(tmp_path / "titles.parquet", {"llm_srec": titles})
    of_titles, of_vectors = (
        pl.read_parquet(tmp_path / "titles.parquet"),
        frame(tmp_path, test=[0, 1], test_shuffled=[1, 1]),
    )
    assert pairs.common(of_titles, of_vectors) == []
    rows = pairs.compare(of_titles, of_titles, None, Bootstrap(50, 0))
    assert {(row.protocol, row.metric) for row in rows if row.what == "test"} == {
        *((protocol, metric) for protocol in TITLES[:2] for metric in ("hr_1", "hr_5", "ndcg_10")),
        ("uni19_generated", "hr_1"),
    }
    assert "uni19_generated HR@1" in tables.text(pairs.tables(rows, 50))


def test_a_run_without_its_teachers_ranks_is_compared_by_its_own(tmp_path):
    a = frame(tmp_path, test=[0, 1], test_shuffled=[1, 1])
    rows = pairs.compare(a, a.filter(model="llm_srec"), None, Bootstrap(50, 0))
    assert {row.model for row in rows} == {"llm_srec"}
