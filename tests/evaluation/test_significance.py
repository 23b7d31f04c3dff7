"""Intervals against drawing users one by one, and against all resamples of three users."""

from itertools import product

import numpy as np
import pytest

from llmsrec.evaluation import significance
from llmsrec.evaluation.metrics import ndcg
from llmsrec.evaluation.significance import Bootstrap


def slow_interval(values, resamples, seed):
    """Draw n users with replacement, `resamples` times."""
    random = np.random.default_rng(seed)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    return np.percentile(means, [2.5, 97.5])


def values(seed, users=400):
    return ndcg(np.random.default_rng(seed).integers(0, 30, users), 10)


def test_mean_agrees_with_drawing_users():
    actual = Bootstrap(20_000, 1).mean(values(0))
    low, high = slow_interval(values(0), 20_000, seed=2)
    assert actual["mean"] == pytest.approx(values(0).mean())
    assert (actual["low"], actual["high"]) == pytest.approx((low, high), abs=6e-4)  # the interval is 0.044 wide


def test_difference_is_paired():
    ours, theirs = values(0) + 0.01, values(0)
    actual = Bootstrap(1000, 1).difference(ours, theirs)
    assert actual["difference"] == pytest.approx(0.01)
    assert actual["high"] - actual["low"] < 1e-9  # every user gains the same; unpaired it would be 0.06 wide
    assert actual["relative"] == pytest.approx(0.01 / theirs.mean())


def test_difference_agrees_with_drawing_users():
    ours, theirs = values(0), np.where(np.arange(400) % 3 == 0, values(1), values(0))
    actual = Bootstrap(20_000, 1).difference(ours, theirs)
    low, high = slow_interval(ours - theirs, 20_000, seed=2)
    assert (actual["low"], actual["high"]) == pytest.approx((low, high), abs=6e-4)


def test_all_resamples_of_three_users():
    three = np.array([0.0, 1.0, 5.0])
    means = [np.mean(draw) for draw in product(three, repeat=3)]
    low, high = np.percentile(np.repeat(means, 1000), [2.5, 97.5])
    actual = Bootstrap(50_000, 0).mean(three)
    assert (actual["low"], actual["high"]) == pytest.approx((low, high), abs=1e-9)


def test_covers_the_truth_about_95_times_of_100():
    random = np.random.default_rng(0)
    inside = 0
    for seed in range(300):
        actual = Bootstrap(400, seed).mean((random.random(200) < 0.3).astype(float))
        inside += actual["low"] <= 0.3 <= actual["high"]
    assert 0.90 <= inside / 300 <= 0.985


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    assert Bootstrap(200, 3).mean(values(0)) == Bootstrap(200, 3).mean(values(0))
    assert Bootstrap(200, 3).mean(values(0)) != Bootstrap(200, 4).mean(values(0))


def test_chunks_change_nothing(monkeypatch):
    whole = Bootstrap(200, 3).mean(values(0))
    monkeypatch.setattr(significance, "CHUNK_BYTES", 8 * 11 * 7)  # seven resamples at a time
    assert Bootstrap(200, 3).mean(values(0)) == whole


def test_swapping_the_models_turns_the_sign():
    forth, back = Bootstrap(500, 0).difference(values(0), values(1)), Bootstrap(500, 0).difference(values(1), values(0))
    assert forth["difference"] == -back["difference"]
    assert forth["low"] < forth["difference"] < forth["high"]


def test_one_user_and_equal_users_have_a_point():
    assert Bootstrap(100, 0).mean(np.array([0.5])) == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert Bootstrap(100, 0).difference(np.ones(9), np.ones(9)) == {"difference": 0, "low": 0, "high": 0, "relative": 0}


def test_nothing_is_relative_to_zero():
    assert "relative" not in Bootstrap(100, 0).difference(np.ones(3), np.zeros(3))


def test_no_users_and_other_users_are_refused():
    with pytest.raises(ValueError, match="no users"):
        Bootstrap(100, 0).mean(np.array([]))
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        Bootstrap(100, 0).difference(np.ones(3), np.ones(2))
