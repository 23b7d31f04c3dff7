"""First of repeats, sample of users, k-core and ids, against a loop over rows."""

import itertools
import json
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsrec.data import parts
from llmsrec.data.five_core import filter_reviews
from llmsrec.errors import DataError


def slow_filter(rows, core):
    """The definition, one row at a time: (user, item, timestamp) by user and event, raw ids."""
    ordered = sorted(enumerate(rows), key=lambda row: (row[1][2], row[0]))
    events, seen = [], set()
    for _, (user, item, timestamp) in ordered:
        if (user, item) not in seen:
            seen.add((user, item))
            events.append((user, item, timestamp))
    while True:
        users, items = Counter(e[0] for e in events), Counter(e[1] for e in events)
        left = [e for e in events if users[e[0]] >= core and items[e[1]] >= core]
        if left == events:
            return sorted(events, key=lambda event: event[0].encode())
        events = left


def result(out):
    """What was written, with raw ids in place of dense ones."""
    users = dict(pl.read_parquet(out / "users.parquet").rows())
    items = dict(pl.read_parquet(out / "items.parquet").select("item_id", "parent_asin").rows())
    rows = pl.read_parquet(out / "interactions.parquet").rows()
    return [(users[user], items[item], timestamp) for user, item, timestamp in rows]


def write_raw(folder, rows, **options):
    schema = {"user_id": pl.String, "parent_asin": pl.String, "timestamp": pl.Int64}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "reviews.parquet", **options)
    items = {"parent_asin": ["u"], "title": ["U"], "store": ["S"], "categories": [["C"]]}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")


ROWS = st.lists(
    st.tuples(st.sampled_from("abcdeé"), st.sampled_from("uvwxyz"), st.integers(1, 4)), min_size=1, max_size=60
)


def test_the_remedy_for_too_few_events_is_one_that_works(raw_folder, tmp_path):
    ring = [(f"u{u}", f"i{(u + step) % 8}", step) for u in range(8) for step in range(4)]
    for core in (5, 9):
        with pytest.raises(DataError, match=r"data\.core 4 leaves 8 users, 8 items, 32 events\.$"):
            filter_reviews(raw_folder(ring), tmp_path / "out", core, 1.0, 0)
    assert filter_reviews(raw_folder(ring), tmp_path / "out", 4, 1.0, 0)["steps"][-1]["events"] == 32
    sparse = [(f"u{u}", f"i{u}-{step}", step) for u in range(8) for step in range(3)]
    for fraction, remedy in ((1.0, "bring more data, in which users have events with 3 items"), (0.5, "user_fraction")):
        with pytest.raises(DataError) as error:
            filter_reviews(raw_folder(sparse), tmp_path / "other", 3, fraction, 0)
        assert remedy in str(error.value) and "ower data.core (" not in str(error.value)


@given(ROWS, st.integers(1, 4))
def test_filter_equals_the_loop(tmp_path_factory, rows, core):
    folder = tmp_path_factory.mktemp("filter")
    write_raw(folder, rows)
    expected = slow_filter(rows, core)
    if not expected:
        with pytest.raises(DataError, match="no event is left"):
            filter_reviews(folder, folder / "out", core, 1.0, 0)
        return
    filter_reviews(folder, folder / "out", core, 1.0, 0)
    assert result(folder / "out") == expected


def test_ties_follow_the_lines_and_the_first_repeat_stays(raw_folder, tmp_path):
    rows = [("u", "c", 2), ("u", "a", 2), ("u", "b", 1), ("u", "a", 1), ("u", "b", 2), ("v", "a", 9)]
    filter_reviews(raw_folder(rows), tmp_path / "out", 1, 1.0, 0)
    assert result(tmp_path / "out") == [("u", "b", 1), ("u", "a", 1), ("u", "c", 2), ("v", "a", 9)]


def test_ids_are_dense_ascending_and_free_of_the_order_of_lines(raw_folder, tmp_path):
    rows = [(user, item, 1) for user in ("ü", "b", "A") for item in ("2", "10", "x")]
    filter_reviews(raw_folder(rows, {"x": "X", "10": None}), tmp_path / "out", 1, 1.0, 0)
    assert pl.read_parquet(tmp_path / "out/users.parquet").rows() == [(1, "A"), (2, "b"), (3, "ü")]
    items = [(1, "10", "Untitled item"), (2, "2", "Untitled item"), (3, "x", "X")]
    assert pl.read_parquet(tmp_path / "out/items.parquet").select("item_id", "parent_asin", "title").rows() == items
    filter_reviews(raw_folder(rows[::-1], {"x": "X"}), tmp_path / "other", 1, 1.0, 0)
    for name in ("users", "items"):
        one, other = (pl.read_parquet(tmp_path / folder / f"{name}.parquet") for folder in ("out", "other"))
        assert one.equals(other)
    schema = pl.read_parquet(tmp_path / "out/interactions.parquet").schema
    assert schema == {"user_id": pl.Int32, "item_id": pl.Int32, "timestamp": pl.Int64}


def test_store_and_categories_of_kept_items_are_plain_text(raw_folder, tmp_path):
    rows = [(user, item, 1) for user in "ab" for item in "uvwxyz"]
    catalogue = {
        "u": ("Rock &amp; Roll ", ["Home &amp; Garden", " \u200b", "Pots"]),
        "v": (None, []),
        "w": ("&nbsp;", ["", "&nbsp;"]),
        "x": ("Shop", ["Pots"]),
    }
    folder = raw_folder(rows, {**dict.fromkeys("uvwx", "T"), "gone": "T"}, {**catalogue, "gone": ("S", ["C"])})
    filter_reviews(folder, tmp_path / "out", 1, 1.0, 0)
    items = pl.read_parquet(tmp_path / "out/items.parquet")
    assert items.select("parent_asin", "store", "categories").rows() == [
        ("u", "Rock & Roll", ["Home & Garden", "Pots"]),
        ("v", None, []),
        ("w", None, []),
        ("x", "Shop", ["Pots"]),
        ("y", None, []),
        ("z", None, []),
    ]
    assert dict(items.schema.items()) == {
        "item_id": pl.Int32, "parent_asin": pl.String, "title": pl.String, "store": pl.String,
        "categories": pl.List(pl.String),
    }  # fmt: skip


def chain():
    """Five users of five items; dropping the item `rare` takes a user below five, and its items with it."""
    rows = [(f"u{user}", f"i{item}", item) for user in range(5) for item in range(5)]
    rows += [("last", item, 7) for item in ("i0", "i1", "i2", "i3", "rare")]
    return [*rows, ("u0", "i0", 99)]


def test_counts_of_each_step(raw_folder, tmp_path):
    manifest = filter_reviews(raw_folder(chain()), tmp_path / "out", 5, 1.0, 3)
    assert manifest["steps"] == [
        {"step": "raw", "users": 6, "items": 6, "events": 31},
        {"step": "first of repeats", "users": 6, "items": 6, "events": 30},
        {"step": "5-core round 1", "users": 6, "items": 5, "events": 29},
        {"step": "5-core round 2", "users": 5, "items": 5, "events": 25},
        {"step": "5-core round 3", "users": 5, "items": 5, "events": 25},
    ]
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest
    again = filter_reviews(raw_folder(chain()), tmp_path / "again", 5, 1.0, 3)
    assert again == manifest  # hashes of the files too


def test_nothing_left_names_counts_and_keys(raw_folder, tmp_path):
    with pytest.raises(DataError) as error:
        filter_reviews(raw_folder(chain()), tmp_path / "out", 6, 1.0, 3)
    assert "raw: 6 users, 6 items, 31 events" in str(error.value)
    assert "6-core round 1: 0 users, 0 items, 0 events" in str(error.value)
    assert "no event is left of data.core 6" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_sample_is_of_users_seeded_and_before_the_core(raw_folder, tmp_path):
    rows = [(f"u{user:02}", f"i{(user + step) % 10}", step) for user in range(40) for step in range(5)]

    def users(name, rows, fraction, seed):
        manifest = filter_reviews(raw_folder(rows), tmp_path / name, 5, fraction, seed)
        drawn = next(step for step in manifest["steps"] if step["step"].startswith("user_fraction"))
        assert manifest["steps"].index(drawn) == 2
        return drawn, set(pl.read_parquet(tmp_path / name / "users.parquet")["raw_user_id"])

    drawn, half = users("a", rows, 0.5, 1)
    assert drawn["users"] == 20
    assert drawn["events"] == 100
    assert half <= {row[0] for row in rows}
    assert users("b", rows[::-1], 0.5, 1)[1] == half
    assert users("c", rows, 0.5, 2)[1] != half


def test_sample_keeps_at_least_one_user(raw_folder, tmp_path):
    filter_reviews(raw_folder(chain()), tmp_path / "out", 1, 1e-9, 0)
    assert pl.read_parquet(tmp_path / "out/users.parquet").height == 1


@settings(max_examples=40)  # each filters six times
@given(ROWS, st.integers(1, 4), st.integers(1, 20), st.integers(1, 20))
def test_parts_of_any_size_give_the_same_files(tmp_path_factory, rows, core, size, batch):
    folder = tmp_path_factory.mktemp("parts")
    write_raw(folder, rows)

    def files(name, fraction, repeats):
        try:
            manifest = filter_reviews(folder, folder / name, core, fraction, 3, repeats)
        except DataError as error:
            return str(error)
        assert not (folder / f".{name}.parts").exists()
        return manifest  # with the sha256 of each file

    for fraction, repeats in ((1.0, "first"), (0.5, "first"), (0.5, "keep")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parts, "ROW_GROUP", 5)
            whole = files("whole", fraction, repeats)
            patch.setattr(parts, "ROWS", size)
            patch.setattr(parts, "BATCH", batch)
            assert files("cut", fraction, repeats) == whole


def test_many_parts_follow_the_byte_order_of_users(tmp_path, monkeypatch):
    rows = [(f"u{n * 7919 % 97:02}", f"i{n % 5}", n) for n in range(1000)]
    write_raw(tmp_path, rows)
    monkeypatch.setattr(parts, "ROWS", 50)
    monkeypatch.setattr(parts, "OPEN", 10)  # so they are of 100 rows
    paths, item_ids = parts.spread(tmp_path / "reviews.parquet", tmp_path)
    assert len(paths) == 10
    read = [pl.read_ipc(path) for path in paths]
    assert all(a["user_id"].max() < b["user_id"].min() for a, b in itertools.pairwise(read))
    back = pl.concat(read).sort("timestamp")
    assert list(zip(back["user_id"], item_ids.gather(back["item"]), back["timestamp"], strict=True)) == rows


@given(ROWS, st.integers(1, 4))
def test_repeats_that_are_kept_are_all_events_of_the_users_and_items_that_the_core_leaves(tmp_path_factory, rows, core):
    folder = tmp_path_factory.mktemp("keep")
    write_raw(folder, rows)
    left = slow_filter(rows, core)
    users, items = ({event[place] for event in left} for place in (0, 1))
    ordered = sorted(enumerate(rows), key=lambda row: (row[1][0].encode(), row[1][2], row[0]))
    expected = [row for _, row in ordered if row[0] in users and row[1] in items]
    if not expected:
        with pytest.raises(DataError, match="no event is left"):
            filter_reviews(folder, folder / "out", core, 1.0, 0, "keep")
        return
    manifest = filter_reviews(folder, folder / "out", core, 1.0, 0, "keep")
    assert result(folder / "out") == expected
    assert manifest["steps"][-1] == {
        "step": "with repeats", "users": len(users), "items": len(items), "events": len(expected)
    }  # fmt: skip
    assert manifest["steps"][-2]["events"] == len(left)


def test_what_a_killed_run_left_is_removed(raw_folder, tmp_path):
    (tmp_path / ".out.parts").mkdir()
    (tmp_path / ".out.parts/0000.arrow").write_bytes(b"half")
    filter_reviews(raw_folder(chain()), tmp_path / "out", 5, 1.0, 0)
    assert not (tmp_path / ".out.parts").exists()


def test_events_are_in_order_of_time_then_line_whatever_the_row_groups(tmp_path):
    rows = [(f"u{n % 7}", f"i{n % 3}", n * 31 % 10) for n in range(1000)]
    write_raw(tmp_path, rows, row_group_size=100)
    filter_reviews(tmp_path, tmp_path / "out", 1, 1.0, 0, "keep")
    assert result(tmp_path / "out") == sorted(rows, key=lambda row: (row[0], row[2]))
