"""Which requests go together, and the frames that bring them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.service.worker.batcher import Batcher, Job
from llmsrec.service.worker.wire import Frames, frame

NEVER = 1e9


def job(number: int, costs: list[int], deadline: float = NEVER, arrived: float = 0.0) -> Job:
    rows = list(range(len(costs)))
    return Job(number, rows, [f"{number}.{row}" for row in rows], costs, deadline, arrived)


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
    batcher = Batcher(rows, cost, 0.0)
    for number, costs in enumerate(jobs):
        batcher.add(job(number, costs))
    assert batches(batcher) == slow(jobs, rows, cost)


def test_a_call_with_one_request_does_not_wait_for_all_of_a_large_one() -> None:
    batcher = Batcher(4, 100, 0.0)
    batcher.add(job(0, [1] * 256))
    batcher.add(job(1, [1]))
    assert "1.0" in batches(batcher)[0]


def test_a_batch_that_is_not_full_waits_and_not_beyond_its_oldest_request() -> None:
    batcher = Batcher(rows=3, cost=10, wait_s=0.5)
    assert batcher.patience(7.0) is None, "nothing waits"
    batcher.add(job(0, [1], arrived=7.0))
    batcher.add(job(1, [1], arrived=7.4))
    assert batcher.patience(7.4) == pytest.approx(0.1)
    assert batcher.patience(8.0) == 0
    batcher.add(job(2, [1], arrived=7.4))
    assert batcher.full and batcher.patience(7.0) == 0
    costly = Batcher(rows=3, cost=10, wait_s=0.5)
    costly.add(job(0, [10], arrived=7.0))
    assert costly.full


def test_what_is_late_is_dropped_with_all_that_is_left_of_it() -> None:
    batcher = Batcher(2, 100, 0.0)
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
