"""Candidates: outside the history, without repetition, uniform, and free of how users are cut."""

import itertools
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data import candidates
from llmsrec.data.candidates import Block, draw, write_candidates
from llmsrec.data.sequences import Sequences
from llmsrec.data.split import leave_last_out
from llmsrec.errors import DataError


def blocks(sequences, size=None):
    """The users of `sequences` in blocks of `size`, or in one."""
    users = np.arange(1, sequences.users + 1)
    for first in range(0, len(users), size or len(users)):
        some = sequences.of_users(users[first : first + (size or len(users))])
        yield Block(first, some, leave_last_out(some))


def histories(users):
    """Lists of items of users 1.. as Sequences."""
    items = np.array([item for user in users for item in user], dtype=np.int32)
    offsets = np.array([0, 0, *np.cumsum([len(user) for user in users])], dtype=np.int64)
    return Sequences(offsets, items, np.zeros(len(items), dtype=np.int64))


def uniform(*size, seed=0):
    return np.random.default_rng(seed).random(size)


def slow_draw(users, items, drawn):
    """Floyd's algorithm on each user's own list of items outside the history."""
    result = []
    for history, numbers in zip(users, drawn, strict=True):
        outside = [item for item in range(1, items + 1) if item not in history]
        chosen = []
        for number, top in zip(numbers, range(len(outside) - len(numbers), len(outside)), strict=True):
            place = int(number * (top + 1))
            chosen.append(top if place in chosen else place)
        result.append(sorted(outside[place] for place in chosen))
    return result


SETS = st.lists(st.lists(st.integers(1, 12), min_size=3, max_size=8), min_size=1, max_size=5)  # with repeats


@given(SETS, st.integers(1, 4), st.integers(0, 3))
def test_draw_equals_the_loop(users, count, seed):
    everyone = np.arange(1, len(users) + 1)
    numbers = uniform(len(users), count, seed=seed)
    drawn = draw(histories(users), everyone, 12, numbers)
    assert drawn.tolist() == slow_draw(users, 12, numbers)
    assert drawn.dtype == np.int32
    for history, row in zip(users, drawn.tolist(), strict=True):
        assert len(set(row)) == count
        assert not set(row) & set(history)
        assert set(row) <= set(range(1, 13))


def test_all_that_is_left_is_drawn_when_it_just_suffices():
    drawn = draw(histories([[1, 5, 3], [6, 2, 4]]), np.array([1, 2]), 6, uniform(2, 3))
    assert drawn.tolist() == [[2, 4, 6], [1, 3, 5]]


def test_every_set_is_as_likely():
    users = 20_000
    sequences = histories([[2, 5, 7]] * users)
    drawn = draw(sequences, np.arange(1, users + 1), 8, uniform(users, 3))
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == set(itertools.combinations([1, 3, 4, 6, 8], 3))
    expected = users / len(counts)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 27.9  # chi-square, 9 df, p = .001


def test_too_few_items_names_counts_and_key():
    with pytest.raises(DataError, match=r"user 2 has events with 4 of the 6 items, so only 2 are left for 3 negatives"):
        draw(histories([[1, 2, 3], [1, 2, 3, 4]]), np.array([1, 2]), 6, uniform(2, 3))
    with pytest.raises(DataError, match=r"only -4 are|only 0 are"):
        draw(histories([[1, 2, 3, 4]]), np.array([1]), 4, uniform(1, 3))


def written(path):
    return pl.read_parquet(path)


def test_file_holds_both_splits_and_excludes_the_whole_history(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    users = [rng.permutation(np.arange(1, 151))[: rng.integers(3, 40)].tolist() for _ in range(50)]
    sequences = histories(users)
    write_candidates(tmp_path / "a.parquet", lambda: blocks(sequences), 150, 99, 7)
    frame = written(tmp_path / "a.parquet")
    schema = {"user_id": pl.Int32, "split": pl.String, "item_id": pl.Int32, "negatives": pl.List(pl.Int32)}
    assert frame.schema == schema
    assert frame["user_id"].to_list() == [*range(1, 51)] * 2
    assert frame["split"].to_list() == ["valid"] * 50 + ["test"] * 50
    for user, split, item, negatives in frame.rows():
        history = users[user - 1]
        assert item == history[-2 if split == "valid" else -1]
        assert len(set(negatives)) == len(negatives) == 99
        assert not set(negatives) & set(history)
    monkeypatch.setattr(candidates, "CHUNK", 7)
    write_candidates(tmp_path / "b.parquet", lambda: blocks(sequences, 9), 150, 99, 7)
    assert written(tmp_path / "b.parquet").equals(frame)
    write_candidates(tmp_path / "c.parquet", lambda: blocks(sequences), 150, 99, 8)
    assert not written(tmp_path / "c.parquet").equals(frame)
    (tmp_path / "a.parquet").rename(tmp_path / "candidates.parquet")
    positives, drawn = candidates.read(tmp_path / "candidates.parquet", "test")
    assert positives.tolist() == [user[-1] for user in users]
    assert drawn.tolist() == [list(row["negatives"]) for row in frame.filter(split="test").iter_rows(named=True)]


def test_what_was_there_stays_when_items_are_too_few(tmp_path):
    (tmp_path / "a.parquet").write_text("before")
    sequences = histories([[1, 2, 3]])
    with pytest.raises(DataError, match=r"lower split\.negatives to 1, or bring more items"):
        write_candidates(tmp_path / "a.parquet", lambda: blocks(sequences), 4, 99, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert (tmp_path / "a.parquet").read_text() == "before"


def test_a_file_that_is_not_whole_or_not_there_is_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    write_candidates(path, lambda: blocks(histories([[1, 2, 3]])), items=9, negatives=2, seed=0)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as parquet: .*; `dvc repro -f split` writes it"):
        candidates.read(path, "test")
    with pytest.raises(DataError, match=r"none\.parquet is not there; `dvc repro -f split`"):
        candidates.read(tmp_path / "none.parquet", "test")
