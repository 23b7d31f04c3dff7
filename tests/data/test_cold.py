"""Items that are held out of training, against a loop over rows."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest

from llmsrec.data import cold, parts
from llmsrec.data.five_core import filter_reviews
from llmsrec.errors import DataError
from tests.data.test_five_core import result, slow_filter


def rows_of(seed, users=60, items=20):
    """Events of users with eight items each, and some repeats."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{user:02}", f"i{item:02}", int(rng.integers(1, 50)))
        for user in range(users)
        for item in rng.permutation(items)[:8]
    ]
    return rows + rows[::7]


def held_out(out):
    """What was held out, with raw ids: (user, item, timestamp)."""
    users = dict(pl.read_parquet(out / "users.parquet").rows())
    items = dict(pl.read_parquet(out / cold.ITEMS).select("item_id", "parent_asin").rows())
    return [(users[user], items[item], time) for user, item, time in pl.read_parquet(out / cold.EVENTS).rows()]


@pytest.mark.parametrize(("fraction", "repeats"), [(0.1, "first"), (0.3, "first"), (0.3, "keep")])
def test_what_follows_is_the_filter_of_data_that_never_had_the_items(raw_folder, tmp_path, fraction, repeats):
    rows = rows_of(1)
    manifest = filter_reviews(raw_folder(rows), tmp_path / "out", 5, 1.0, 3, repeats, cold_fraction=fraction)
    ids = sorted({item for _, item, _ in rows})
    chosen = {ids[place] for place in np.random.default_rng(3).permutation(len(ids))[: round(fraction * len(ids))]}
    without = [row for row in rows if row[1] not in chosen]
    filter_reviews(raw_folder(without), tmp_path / "without", 5, 1.0, 3, repeats)
    for name in ("interactions", "items", "users"):
        one, other = (pl.read_parquet(tmp_path / place / f"{name}.parquet") for place in ("out", "without"))
        assert one.equals(other), name
    left = {user for user, _, _ in result(tmp_path / "out")}
    firsts = slow_filter([row for row in rows if row[1] in chosen], 1)
    asked = [event for event in firsts if event[0] in left]
    enough = {item for item, count in Counter(item for _, item, _ in asked).items() if count >= 5}
    assert held_out(tmp_path / "out") == [event for event in asked if event[1] in enough]
    taken = {"items": len(enough), "events": len(held_out(tmp_path / "out"))}
    users = len({user for user, _, _ in held_out(tmp_path / "out")})
    assert manifest["cold"] == {"fraction": fraction, "users": users, **taken}
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest


def test_without_a_fraction_nothing_of_it_is_written(raw_folder, tmp_path):
    manifest = filter_reviews(raw_folder(rows_of(1)), tmp_path / "out", 5, 1.0, 3)
    assert "cold" not in manifest and not list((tmp_path / "out").glob("cold*"))


def test_parts_of_any_size_hold_out_the_same(raw_folder, tmp_path, monkeypatch):
    raw = raw_folder(rows_of(2))
    whole = filter_reviews(raw, tmp_path / "whole", 5, 0.9, 3, cold_fraction=0.2)
    monkeypatch.setattr(parts, "ROWS", 40)
    monkeypatch.setattr(parts, "BATCH", 30)
    assert filter_reviews(raw, tmp_path / "cut", 5, 0.9, 3, cold_fraction=0.2) == whole


def test_the_draw_is_free_of_the_order_of_lines(raw_folder, tmp_path):
    rows = rows_of(4)
    for name, lines in (("one", rows), ("other", rows[::-1])):
        filter_reviews(raw_folder(lines), tmp_path / name, 5, 1.0, 3, cold_fraction=0.2)
    one, other = (pl.read_parquet(tmp_path / name / cold.ITEMS) for name in ("one", "other"))
    assert one.equals(other)


def test_a_fraction_that_holds_out_nothing_or_too_much_is_one_line(raw_folder, tmp_path):
    rare = [row for row in rows_of(5) if row[1] != "i00"]
    raw = raw_folder(rare + [("u00", f"rare{n}", 1) for n in range(2000)])
    with pytest.raises(DataError, match=r"data\.cold_fraction 0\.001 holds out no item with 5 events .* raise it"):
        filter_reviews(raw, tmp_path / "out", 5, 1.0, 3, cold_fraction=0.001)
    with pytest.raises(DataError, match=r"lower data\.cold_fraction \(now 0\.95\)"):
        filter_reviews(raw_folder(rows_of(5)), tmp_path / "out", 5, 1.0, 3, cold_fraction=0.95)
