"""Slices against sorting and counting by hand."""

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsrec.evaluation.slices import transition, transition_scores, warm_cold

sequences = st.lists(st.lists(st.integers(1, 5), max_size=6), min_size=1, max_size=9)


def csr(rows):
    return np.concatenate([[0], np.cumsum([len(row) for row in rows])]), np.array(
        [i for row in rows for i in row], dtype=np.int32
    )


def slow_warm_cold(targets, counts):
    ordered = sorted(range(1, len(counts)), key=lambda item: (-counts[item], item))
    size = len(ordered) * 35 // 100
    warm, cold = ordered[:size], ordered[len(ordered) - size :]
    return [t in warm for t in targets], [t in cold for t in targets]


def slow_scores(rows):
    count = Counter(pair for row in rows for pair in pairwise(row))
    return [sum(count[p] for p in pairwise(row)) / (len(row) - 1) if len(row) > 1 else 0 for row in rows]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=25), st.data())
def test_warm_cold_agrees_with_sorting(counts, data):
    targets = data.draw(st.lists(st.integers(1, len(counts)), max_size=10))
    actual = warm_cold(np.array(targets, dtype=np.int64), np.array([99, *counts]))
    assert (actual["warm"].tolist(), actual["cold"].tolist()) == slow_warm_cold(targets, [99, *counts])


def test_warm_cold_by_hand():
    counts = np.array([0, 9, 1, 5, 5, 5, 2, 2, 2, 1, 7])  # 10 items: 3 warm, 3 cold
    actual = warm_cold(np.arange(1, 11), counts)
    assert np.flatnonzero(actual["warm"]).tolist() == [0, 2, 9]  # 1, 10, and 3 before its equals 4 and 5
    assert np.flatnonzero(actual["cold"]).tolist() == [1, 7, 8]  # 2, 9, and 8 after its equals 6 and 7


def test_unsigned_counts_do_not_wrap():
    assert warm_cold(np.array([3]), np.array([0, 1, 0, 9], dtype=np.uint32))["warm"].tolist() == [True]


@settings(deadline=None)
@given(sequences)
def test_transition_scores_agree_with_counting(rows):
    assert transition_scores(*csr(rows)).tolist() == slow_scores(rows)


@settings(deadline=None)
@given(sequences)
def test_transition_takes_the_top_half(rows):
    scores = slow_scores(rows)
    top = sorted(range(len(rows)), key=lambda row: (-scores[row], row))[: len(rows) // 2]
    actual = transition(*csr(rows))
    assert np.flatnonzero(actual["transition"]).tolist() == sorted(top)
    assert (actual["transition"] ^ actual["non_transition"]).all()


def test_transition_by_hand():
    rows = [[1, 2, 3], [4, 5], [1, 2], [2, 1]]
    # 1->2 occurs twice, 2->3, 4->5 and 2->1 once
    assert transition_scores(*csr(rows)).tolist() == [1.5, 1, 2, 1]
    assert transition(*csr(rows))["transition"].tolist() == [True, False, True, False]


def test_rows_may_start_inside_the_items():
    """As for users 1..U of `Sequences`, or any window of them."""
    offsets, items = csr([[5, 5, 5], [1, 2, 3], [1, 2]])
    assert transition_scores(offsets[1:], items).tolist() == [1.5, 2]
