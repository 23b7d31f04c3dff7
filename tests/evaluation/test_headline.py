"""metrics/summary.json: the figures are those of evaluation.json."""

import pytest

from llmsrec.evaluation.headline import headline


def evaluation(shuffled: float = 0.05, full: float = 0.1):
    def metrics(ndcg: float):
        return {"ndcg_10": ndcg, "hr_10": 2 * ndcg, "ndcg_20": 0.9, "hr_20": 0.9, "cold": {"ndcg_10": 0.8}}

    return {
        "llm_srec": {
            "test": {"uni99": metrics(0.4), "full": metrics(full)},
            "test_shuffled": {"uni99": metrics(0.2), "full": metrics(shuffled)},
        },
        "sasrec": {"test": {"uni99": metrics(0.3), "full": metrics(0.15)}},
    }


def test_the_figures_are_those_of_all_test_users():
    assert headline(evaluation(), "sasrec") == {
        "uni99_ndcg_10": 0.4,
        "full_ndcg_10": 0.1,
        "full_hr_10": 0.2,
        "full_shuffled": pytest.approx(-0.5),
        "teacher_uni99_ndcg_10": 0.3,
        "teacher_full_ndcg_10": 0.15,
    }


def test_a_model_that_ranks_nothing_right_has_nothing_to_lose():
    assert headline(evaluation(0.0, 0.0), "sasrec")["full_shuffled"] == 0
