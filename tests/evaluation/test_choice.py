"""Ranks of 20 titles, and what a written text counts as."""

import numpy as np
import pytest

from llmsrec.evaluation import choice, metrics


def test_ranks_equal_a_sort_with_the_positive_behind_its_ties() -> None:
    rng = np.random.default_rng(0)
    scores, places = rng.integers(0, 6, (200, 20)).astype(float), rng.integers(0, 20, 200)
    for row, place, rank in zip(scores, places, choice.ranks(scores, places), strict=True):
        order = sorted(range(20), key=lambda k: (-row[k], k == place))
        assert rank == order.index(place)


def test_equal_scores_are_no_success() -> None:
    assert choice.ranks(np.zeros((1, 20)), np.array([3])).tolist() == [19]


def test_scores_that_are_not_numbers_never_rank_first() -> None:
    scores = np.full((2, 3), -np.inf)
    assert choice.ranks(scores, np.array([0, 1])).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("soap", 0),
        ("soap bar", 1),
        ("soap bar red", -1),
        ("my soap", -1),
        ("", -1),
        ("tent", -1),
    ],
    ids=["shorter of two nested", "longer of two nested", "more than a title", "contains one", "nothing", "two alike"],
)
def test_a_text_names_a_candidate_if_it_equals_exactly_one(text: str, which: int) -> None:
    assert choice.chosen([text], [["soap", "soap bar", "tent", "tent"]]).tolist() == [which]


def test_hr_1_counts_all_users_and_not_the_valid_texts_alone() -> None:
    ranks = choice.ranks_of_chosen(np.array([2, -1, 0, 5]), np.array([2, 2, 1, 5]))
    assert ranks.tolist() == [0, 19, 19, 0]
    assert metrics.hr(ranks, 1).mean() == 0.5
