"""NDCG and HR against the textbook definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsrec.evaluation.metrics import METRICS, hr, ndcg, per_user, summary


def slow_ndcg(rank, k):
    """DCG over the list of the first k, divided by the DCG of the best list."""
    relevance = [1 if place == rank else 0 for place in range(k)]
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(relevance)) / (1 / math.log2(2))


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.sampled_from([10, 20]))
def test_agree_with_the_definitions(ranks, k):
    actual = np.array(ranks, dtype=np.int32)
    assert ndcg(actual, k).tolist() == pytest.approx([slow_ndcg(rank, k) for rank in ranks])
    assert hr(actual, k).tolist() == [float(rank in range(k)) for rank in ranks]


def test_hand_made():
    actual = summary(np.array([0, 2, 9, 10, 19, 20], dtype=np.int32))
    assert actual["hr_10"] == 3 / 6 and actual["hr_20"] == 5 / 6
    assert actual["ndcg_10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(11)) / 6)
    assert actual["ndcg_20"] == pytest.approx(
        (1 + 1 / 2 + 1 / math.log2(11) + 1 / math.log2(12) + 1 / math.log2(21)) / 6
    )
    assert tuple(actual) == METRICS


def test_a_random_scorer_on_100_candidates():
    """HR@10 .100 and NDCG@10 .0454 are what chance gives."""
    actual = summary(np.arange(100, dtype=np.int32))
    assert actual["hr_10"] == pytest.approx(0.1) and actual["ndcg_10"] == pytest.approx(0.0454, abs=5e-5)


def test_no_users_have_no_mean():
    assert summary(np.array([], dtype=np.int32)) == {}


def test_some_metrics():
    assert summary(np.array([3]), ("hr_10",)) == {"hr_10": 1.0}
    assert per_user(np.array([0, 12]), "hr_20").tolist() == [1.0, 1.0]
