"""Leave-last-out on hand-made frames."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data.five_core import filter_reviews
from llmsrec.data.sequences import Sequences
from llmsrec.data.split import frame, leave_last_out, split_interactions
from llmsrec.errors import DataError

SCHEMA = {"user_id": pl.Int32, "item_id": pl.Int32, "timestamp": pl.Int64}


def filtered(folder, users, items):
    """Write data/filtered from each user's (item, time) events."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(number, *event) for number, user in enumerate(users, start=1) for event in user]
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(folder / "interactions.parquet")
    pl.DataFrame({"item_id": list(range(1, items + 1))}).write_parquet(folder / "items.parquet")
    return folder


TWO = [[(4, 1), (2, 1), (3, 2), (1, 2)], [(5, 7), (6, 8), (1, 9)]]


def test_exact_parts(tmp_path):
    manifest = split_interactions(filtered(tmp_path / "f", TWO, 9), tmp_path / "s", 3, False, 0)
    parts = {name: pl.read_parquet(tmp_path / f"s/{name}.parquet") for name in ("train", "valid", "test")}
    assert parts["train"].rows() == [(1, 4, 1), (1, 2, 1), (2, 5, 7)]
    assert parts["valid"].rows() == [(1, 3, 2), (2, 6, 8)]
    assert parts["test"].rows() == [(1, 1, 2), (2, 1, 9)]
    assert all(part.schema == SCHEMA for part in parts.values())
    assert manifest["events"] == {"train": 3, "valid": 2, "test": 2}
    assert json.loads((tmp_path / "s/manifest.json").read_text()) == manifest
    assert split_interactions(tmp_path / "f", tmp_path / "again", 3, False, 0) == manifest


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=3, max_size=8), min_size=1, max_size=5)
)
def test_parts_are_the_slices_of_each_user(tmp_path_factory, users):
    folder = filtered(tmp_path_factory.mktemp("split"), users, 9)
    parts = leave_last_out(Sequences.read(folder / "interactions.parquet"))
    numbered = list(enumerate(users, start=1))
    assert frame(parts["train"]).rows() == [(u, *event) for u, events in numbered for event in events[:-2]]
    assert frame(parts["valid"]).rows() == [(u, *events[-2]) for u, events in numbered]
    assert frame(parts["test"]).rows() == [(u, *events[-1]) for u, events in numbered]


def test_shuffle_moves_only_the_items_of_train(tmp_path):
    users = [[(item, 10 * user + item) for item in range(1, 21)] for user in range(30)]
    folder = filtered(tmp_path / "f", users, 40)
    split_interactions(folder, tmp_path / "plain", 9, False, 5)
    split_interactions(folder, tmp_path / "shuffled", 9, True, 5)
    plain, shuffled = (pl.read_parquet(tmp_path / name / "train.parquet") for name in ("plain", "shuffled"))
    assert plain["item_id"].to_list() != shuffled["item_id"].to_list()
    assert plain.select("user_id", "timestamp").equals(shuffled.select("user_id", "timestamp"))
    assert plain.sort("user_id", "item_id")["item_id"].equals(shuffled.sort("user_id", "item_id")["item_id"])
    for name in ("valid", "test", "candidates"):
        one, other = ((tmp_path / which / f"{name}.parquet").read_bytes() for which in ("plain", "shuffled"))
        assert one == other


def test_short_history_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"a user has 2 events, a split needs 3.*dvc repro -f -s filter"):
        split_interactions(filtered(tmp_path / "f", [TWO[0], TWO[1][:2]], 9), tmp_path / "s", 3, False, 0)


def test_raw_ties_end_up_in_the_split(raw_folder, tmp_path):
    """All of a user's events on one day: the last line is the test event."""
    rows = [("u", item, 5) for item in "dacb"] + [("v", item, 5) for item in "bcad"]
    filter_reviews(raw_folder(rows), tmp_path / "f", 2, 1.0, 0)
    with pytest.raises(DataError, match="0 are left for 1 negatives"):
        split_interactions(tmp_path / "f", tmp_path / "s", 1, False, 0)
    assert pl.read_parquet(tmp_path / "s/test.parquet")["item_id"].to_list() == [2, 4]
    assert pl.read_parquet(tmp_path / "s/valid.parquet")["item_id"].to_list() == [3, 1]
