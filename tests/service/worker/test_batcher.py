"""Which requests go together, and the frames that bring them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.service.worker.batcher import LONGEST_S, Batcher, Job
from llmsrec.service.worker.wire import Frames, frame

NEVER = 1e9


def job(number: int, costs: list[int], deadline: float = NEVER, arrived: float = 0.0) -> Job:
    rows = list(range(len(costs)))
    return Job(number, rows, [f"{number}.{row}" for row in rows], costs, deadline, arrived)


def quick(rows: int, cost: int, wait_s: float) -> Batcher:
    """One whose batches take next to no time."""
    batcher = Batcher(rows, cost, wait_s)
    batcher.took(1, 0.0)
    return batcher


def batches(batcher: Batcher) -> list[list[str]]:
    """All batches, one after the other, until nothing waits."""
    made = []
    while len(batcher):
        batch, late = batcher.take(0.0)
        assert batch and not late
        made.append([one.requests[place] for one, place in batch])
    return made


def slow(jobs: list[list[int]], rows: int, cost: int) -> list[list[str]]:
    """The same, job after job in a list that is turned by hand."""
    left = [[(f"{number}.{row}", c) for row, c in enumerate(costs)] for number, costs in enumerate(jobs)]
    order, now, made = [number for number, costs in enumerate(left) if costs], list[tuple[str, int]](), []
    while order:
        number = order[0]
        name, c = left[number][0]
        if now and (len(now) == rows or sum(c for _, c in now) + c > cost):
            made.append([name for name, _ in now])
            now = []
        now.append((name, c))
        left[number].pop(0)
        order = order[1:] + ([number] if left[number] else [])
    return [*made, [name for name, _ in now]] if now else made


@given(
    jobs=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), max_size=5),
    rows=st.integers(1, 8),
    cost=st.integers(1, 20),
)
def test_batches_against_turning_a_list_by_hand(jobs: list[list[int]], rows: int, cost: int) -> None:
    batcher = quick(rows, cost, 0.0)
    for number, costs in enumerate(jobs):
        batcher.add(job(number, costs))
    assert batches(batcher) == slow(jobs, rows, cost)


def test_a_call_with_one_request_does_not_wait_for_all_of_a_large_one() -> None:
    batcher = quick(4, 100, 0.0)
    batcher.add(job(0, [1] * 256))
    batcher.add(job(1, [1]))
    assert "1.0" in batches(batcher)[0]


def test_a_batch_that_is_not_full_waits_and_not_beyond_its_oldest_request() -> None:
    batcher = quick(rows=3, cost=10, wait_s=0.5)
    assert batcher.patience(7.0) is None, "nothing waits"
    batcher.add(job(0, [1], arrived=7.0))
    batcher.add(job(1, [1], arrived=7.4))
    assert batcher.patience(7.4) == pytest.approx(0.1)
    assert batcher.patience(8.0) == 0
    batcher.add(job(2, [1], arrived=7.4))
    assert batcher.full and batcher.patience(7.0) == 0
    costly = quick(rows=3, cost=10, wait_s=0.5)
    costly.add(job(0, [10], arrived=7.0))
    assert costly.full


def test_a_batch_of_many_takes_no_longer_than_it_may_as_far_as_is_known() -> None:
    batcher = Batcher(rows=8, cost=1000, wait_s=0.5)
    batcher.add(job(0, [100] * 30))
    assert len(batcher.take(0.0)[0]) == 1, "nothing is known yet"
    batcher.took(100, LONGEST_S / 4)
    assert batcher.full and len(batcher.take(0.0)[0]) == 4
    batcher.took(400, LONGEST_S)
    assert len(batcher.take(0.0)[0]) == 4
    batcher.took(400, 8 * LONGEST_S)  # others came, nothing of whom was kept
    assert len(batcher.take(0.0)[0]) == 1
    for _ in range(60):
        batcher.took(100, LONGEST_S / 20)
    assert len(batcher.take(0.0)[0]) == 8, "and not more than ever"


def test_what_is_late_is_dropped_with_all_that_is_left_of_it() -> None:
    batcher = quick(2, 100, 0.0)
    late, other = job(0, [1] * 5, deadline=1.0), job(1, [1])
    batcher.add(late)
    batcher.add(other)
    assert len(batcher.take(0.5)[0]) == 2
    batch, dropped = batcher.take(1.0)
    assert (batch, dropped, len(batcher)) == ([], [late], 0)
    batcher.drop(late)  # again


@given(
    sent=st.lists(st.tuples(st.dictionaries(st.text(max_size=3), st.integers()), st.binary(max_size=40)), max_size=5),
    size=st.integers(1, 50),
)
def test_frames_come_out_as_they_were_sent_however_they_are_cut(sent: list[tuple[Any, bytes]], size: int) -> None:
    stream = b"".join(frame(header, body) for header, body in sent)
    frames, came = Frames(), list[Any]()
    for start in range(0, len(stream), size):
        came += frames.feed(stream[start : start + size])
    assert came == sent
