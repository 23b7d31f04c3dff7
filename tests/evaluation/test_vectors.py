"""Distances and cosines against loops over pairs."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmsrec.evaluation import vectors
from llmsrec.evaluation.vectors import mean_cosine, mean_distance

tables = st.tuples(st.integers(2, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(-9, 9, width=32))
)


def slow_distance(table):
    return np.mean([math.dist(a, b) for a, b in combinations(table.tolist(), 2)])


def slow_cosine(table, others):
    def cosine(a, b):
        norms = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0

    return np.mean([cosine(a, b) for a, b in zip(table.tolist(), others.tolist(), strict=True)])


@settings(deadline=None)
@given(tables, st.integers(1, 5))
def test_distance_agrees_with_all_pairs(table, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "ROWS", rows)
        assert mean_distance(table, seed=0) == (pytest.approx(slow_distance(table), abs=1e-5), len(table))


def test_distance_by_hand():
    assert mean_distance(np.array([[0.0, 0], [3, 4], [6, 8]]), 0) == (pytest.approx((5 + 5 + 10) / 3), 3)


def test_distance_of_a_crowd_far_from_the_origin():
    """Over-smoothed vectors: much the same, and long."""
    crowd = 1e4 + np.random.default_rng(0).standard_normal((40, 8)) * 1e-3
    assert mean_distance(crowd, 0) == (pytest.approx(slow_distance(crowd), rel=1e-6), 40)


def test_distance_of_a_sample(monkeypatch):
    table = np.random.default_rng(0).standard_normal((3000, 8))
    exact, count = mean_distance(table, seed=0)
    assert count == 3000
    monkeypatch.setattr(vectors, "DISTANCE_USERS", 1000)
    sampled, count = mean_distance(table, seed=0)
    assert count == 1000 and sampled == pytest.approx(exact, rel=0.02) and sampled != exact
    assert mean_distance(table, seed=0) == (sampled, 1000) != mean_distance(table, seed=1)


def test_there_is_no_distance_of_one_user():
    assert mean_distance(np.ones((1, 3)), 0) is None
    assert mean_distance(np.ones((0, 3)), 0) is None


@settings(deadline=None)
@given(tables, st.data())
def test_cosine_agrees_with_a_loop(table, data):
    others = data.draw(arrays.arrays(np.float32, table.shape, elements=st.floats(-9, 9, width=16)))
    assert mean_cosine(table, others) == pytest.approx(slow_cosine(table, others), abs=1e-6)


def test_cosine_by_hand():
    assert mean_cosine(np.array([[2.0, 0], [1, 0], [0, 0]]), np.array([[5.0, 0], [0, 3], [1, 1]])) == pytest.approx(
        1 / 3
    )
    assert mean_cosine(np.zeros((0, 2)), np.zeros((0, 2))) is None
