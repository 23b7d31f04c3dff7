"""Flat sequences against lists of lists."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError

USERS = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=9), min_size=1, max_size=6
)


def flat(users):
    """Lists of (item, time), users 1.. in order, as Sequences."""
    events = [event for user in users for event in user]
    return Sequences(
        offsets=np.array([0, 0, *np.cumsum([len(user) for user in users])], dtype=np.int64),
        items=np.array([item for item, _ in events], dtype=np.int32),
        timestamps=np.array([time for _, time in events], dtype=np.int64),
    )


def nested(sequences):
    """Sequences as lists of (item, time)."""
    parts = (sequences.of(user) for user in range(1, sequences.users + 1))
    return [list(zip(items.tolist(), times.tolist(), strict=True)) for items, times in parts]


@given(USERS)
def test_read_gives_each_user_its_events(tmp_path_factory, users):
    path = tmp_path_factory.mktemp("sequences") / "interactions.parquet"
    rows = [(number, *event) for number, user in enumerate(users, start=1) for event in user]
    schema = {"user_id": pl.Int32, "item_id": pl.Int32, "timestamp": pl.Int64}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)
    sequences = Sequences.read(path)
    assert nested(sequences) == users
    assert sequences.users == len(users)
    assert sequences.lengths().tolist() == [0, *map(len, users)]
    assert sequences.items.dtype == np.int32


@pytest.mark.parametrize("users", [[], [2, 2, 3], [1, 3], [1, 2, 1], [0, 1]])
def test_read_refuses_users_that_are_not_dense(tmp_path, users):
    frame = pl.DataFrame(
        {"user_id": users, "item_id": users, "timestamp": users}, schema_overrides={"user_id": pl.Int32}
    )
    frame.write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="not 1, 2, 3"):
        Sequences.read(tmp_path / "x.parquet")


def test_read_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"is not there; `dvc repro` runs"):
        Sequences.read(tmp_path / "x.parquet")


def test_a_file_whose_end_is_missing_is_one_line(tmp_path):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-9])
    for read in (Sequences.read, lambda path: next(Sequences.blocks(path, 10))):
        with pytest.raises(DataError, match=r"x\.parquet cannot be read as parquet: .*; `dvc repro`"):
            read(path)


@given(USERS, st.integers(0, 4))
def test_drop_last(users, count):
    assert nested(flat(users).drop_last(count)) == [user[: max(len(user) - count, 0)] for user in users]


@given(USERS, st.integers(0, 5))
def test_shuffled_moves_items_within_a_user_and_leaves_times(users, seed):
    sequences = flat(users)
    shuffled = nested(sequences.shuffled(seed))
    for before, after in zip(users, shuffled, strict=True):
        assert sorted(item for item, _ in before) == sorted(item for item, _ in after)
        assert [time for _, time in before] == [time for _, time in after]
    assert nested(sequences.shuffled(seed)) == shuffled
    assert nested(sequences) == users


def test_shuffled_gives_every_order_as_often():
    users = [[(1, 0), (2, 0), (3, 0)]] * 6000
    orders = flat(users).shuffled(1).items.reshape(-1, 3)
    assert len(set(map(tuple, flat(users).shuffled(2).items.reshape(-1, 3)[:50]))) == 6
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 150  # five standard deviations


@given(USERS, st.integers(1, 6), st.integers(0, 2))
def test_last_is_right_aligned_and_padded(users, length, dropped):
    table = flat(users).drop_last(dropped).last(length)
    expected = [[0] * length]
    for user in users:
        items = [item for item, _ in user[: max(len(user) - dropped, 0)]][-length:]
        expected.append([0] * (length - len(items)) + items)
    assert table.tolist() == expected
    assert table.dtype == np.int64
