"""The suggested request: the user whose next item was ranked best, of those whose items all have titles."""

import polars as pl
import pytest

from llmsrec.data.titles import UNTITLED
from llmsrec.evaluation import example

TITLES = {1: "Tent", 2: "Lamp", 3: "Stove", 4: "Mat", 5: "Rope", 6: UNTITLED}
EVENTS = {1: [1, 2, 3, 6, 4], 2: [5, 4, 3, 2, 1], 3: [1, 3, 5, 2, 4]}


def write(folder, ranks):
    rows = [(user, item, 10**12 + place) for user, items in EVENTS.items() for place, item in enumerate(items)]
    schema = {"user_id": pl.Int32, "item_id": pl.Int32, "timestamp": pl.Int64}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "interactions.parquet")
    items = {"item_id": list(TITLES), "parent_asin": [f"B{item}" for item in TITLES], "title": list(TITLES.values())}
    pl.DataFrame(items).cast({"item_id": pl.Int32}).write_parquet(folder / "items.parquet")
    others = [
        (1, "sasrec", "test", "full", 0),
        (2, "llm_srec", "test", "uni99", 0),
        (2, "llm_srec", "valid", "full", 0),
    ]
    rows = [(user, "llm_srec", "test", "full", rank) for user, rank in ranks.items()] + others
    names = {"user_id": pl.Int32, "model": pl.String, "split": pl.String, "protocol": pl.String, "rank": pl.Int64}
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(folder / "ranks.parquet")
    return example.history(folder, folder / "ranks.parquet")


@pytest.mark.parametrize(("ranks", "user"), [({1: 0, 2: 7, 3: 3}, 3), ({1: 0, 2: 3, 3: 3}, 2)])
def test_the_events_before_the_one_that_was_ranked_best(tmp_path, ranks, user):
    asins = [f"B{item}" for item in EVENTS[user][1:-1]]
    actual = write(tmp_path, ranks)
    assert [asin for asin, *_ in actual] == asins
    assert [(ms, title) for _, ms, title in actual] == [
        (10**12 + place, TITLES[item]) for place, item in list(enumerate(EVENTS[user]))[1:-1]
    ]


def test_nothing_where_no_history_has_titles(tmp_path, monkeypatch):
    for item in TITLES:
        monkeypatch.setitem(TITLES, item, UNTITLED)
    assert write(tmp_path, {1: 0, 2: 1, 3: 2}) == []
