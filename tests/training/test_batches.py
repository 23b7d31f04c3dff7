from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data.sequences import Sequences
from llmsrec.training.batches import Samples, check_steps, epoch

ROWS = [(1, [1, 2, 3]), (2, [4]), (3, [5, 6, 1, 2, 8, 7]), (4, [2, 9])]


@pytest.fixture
def train(tmp_path: Path) -> Sequences:
    events = [(user, item, k) for user, items in ROWS for k, item in enumerate(items)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_parquet(tmp_path / "train.parquet")
    return Sequences.read(tmp_path / "train.parquet")


def cases(samples: Samples) -> list[tuple[int, list[int], int]]:
    """(user, history, target) of every target."""
    rows = np.arange(len(samples.users))
    items, _, shortest = samples.histories(rows)
    users, places = samples.targets(rows)
    targets = iter(zip(users.tolist(), samples.sequences.items[places].tolist(), strict=True))
    triples = []
    for row, short in zip(items, shortest, strict=True):
        for end in range(short, len(row) + 1):
            user, target = next(targets)
            triples.append((user, row[:end].tolist(), target))
    assert next(targets, None) is None
    return triples


def test_the_last_training_item_is_the_target(train: Sequences) -> None:
    samples = Samples.of(train, 9, "last", history=3)
    assert cases(samples) == [(1, [1, 2], 3), (3, [1, 2, 8], 7), (4, [2], 9)]


def test_every_item_but_the_first_is_a_target(train: Sequences) -> None:
    samples = Samples.of(train, 9, "all", history=3)
    assert cases(samples) == [
        (1, [1], 2),
        (1, [1, 2], 3),
        (3, [5], 6),
        (3, [5, 6], 1),
        (3, [5, 6, 1], 2),
        (3, [1, 2], 8),
        (3, [1, 2, 8], 7),
        (4, [2], 9),
    ]


@given(length=st.integers(2, 40), history=st.integers(1, 12))
def test_all_targets_come_once_and_histories_are_half_as_long_as_allowed(length: int, history: int) -> None:
    items = np.arange(1, length + 1, dtype=np.int32)
    train = Sequences(np.array([0, 0, length]), items, items.astype(np.int64))
    actual = cases(Samples.of(train, length, "all", history))
    assert [target for _, _, target in actual] == list(range(2, length + 1))
    for _, past, target in actual:
        assert past == list(range(target - len(past), target)), "the events right before the target"
        assert min((history + 1) // 2, target - 1) <= len(past) <= history


def test_the_teacher_sees_everything_before_the_target(train: Sequences) -> None:
    samples = Samples.of(train, 9, "all", history=3)
    users, places = samples.targets(np.array([0, 2]))
    assert users.tolist() == [1, 1, 3, 3]
    assert samples.before(users, places, 4).tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [5, 6, 1, 2], [6, 1, 2, 8]]


def test_negatives_are_outside_the_training_events_and_reach_every_other_item(train: Sequences) -> None:
    samples = Samples.of(train, 9, "last", history=3)
    drawn = samples.negatives(np.array([1, 3, 4]), 400, np.random.default_rng(0))
    for row, (_, items) in zip(drawn, [ROWS[0], ROWS[2], ROWS[3]], strict=True):
        assert set(row.tolist()) == set(range(1, 10)) - set(items), "uniform over exactly the items not seen"


def test_all_that_users_know_is_what_is_their_own_item_by_item(train: Sequences) -> None:
    samples, users = Samples.of(train, 9, "last", history=3), np.array([3, 1, 3, 2])
    known = samples.known(users)
    assert not known[:, 0].any()
    np.testing.assert_array_equal(known[:, 1:], samples.own(users[:, None], np.arange(1, 10)))


def test_negatives_are_seeded(train: Sequences) -> None:
    samples = Samples.of(train, 9, "last", history=3)
    again = [samples.negatives(np.array([1, 4]), 5, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(again[0], again[1])
    assert (again[0] != again[2]).any()


@given(count=st.integers(1, 400), batch=st.integers(2, 40), seed=st.integers(0, 99))
def test_an_epoch_holds_each_row_once(count: int, batch: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(5, 99, count)
    batches = list(epoch(lengths, batch, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert all(1 <= len(rows) <= batch for rows in batches)
    assert len(batches) == -(-count // batch)


def test_batches_hold_prompts_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 300, 2_000)
    bucketed = sum(lengths[rows].max() * len(rows) for rows in epoch(lengths, 20, np.random.default_rng(0)))
    assert bucketed < 1.1 * lengths.sum()


@given(steps=st.integers(1, 300), checks=st.integers(1, 30))
def test_checks_are_spread_and_end_with_the_epoch(steps: int, checks: int) -> None:
    """The reference implementation divides by zero with fewer batches than checks, and misses the epoch's end."""
    at = sorted(check_steps(steps, checks))
    assert at[0] >= 1
    assert at[-1] == steps
    assert len(at) == min(steps, checks)
