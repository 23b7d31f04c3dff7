"""The self-test finds versions that must not serve, and passes those that may."""

from typing import Any

import pytest

from llmsrec.service.worker.trial import problem
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse

ASINS = [f"B{number}" for number in range(1, 31)]


@pytest.fixture(scope="module")
def recommender(tiny: Any) -> Recommender:
    return Recommender.load(tiny.bundle)


class Changed:
    """A recommender whose answers are changed, in batches of `least` requests and more."""

    def __init__(self, recommender: Recommender, change: Any, least: int) -> None:
        self._recommender, self._change, self._least = recommender, change, least

    def recommend(self, requests: Any) -> Any:
        answers = self._recommender.recommend(requests)
        if len(requests) >= self._least:
            for request, answer in zip(requests, answers, strict=True):
                self._change(request, answer)
        return answers


def nan(_: Any, answer: Any) -> None:
    answer.items[-1].score = float("nan")


def shorter(_: Any, answer: Any) -> None:
    answer.items.pop()


def again(request: Any, answer: Any) -> None:
    answer.items[0].parent_asin = request.history[0].parent_asin


def popular(_: Any, answer: Any) -> None:
    answer.fallback = "popular"


def near(_: Any, answer: Any) -> None:
    answer.items[0].score += 1e-3


def rounded(_: Any, answer: Any) -> None:
    for item in answer.items:
        item.score += 0.1 * max(1.0, abs(item.score))
    answer.items[-1].parent_asin = "another"


def far(_: Any, answer: Any) -> None:
    answer.items[0].score += 0.3 * max(1.0, *(abs(item.score) for item in answer.items))


def of_another_user(_: Any, answer: Any) -> None:
    for number, item in enumerate(answer.items[len(answer.items) // 2 - 1 :]):
        item.parent_asin = f"another {number}"


@pytest.mark.parametrize("tower", ["cf", "llm", "blend"])
def test_a_sound_version_passes(recommender: Recommender, tower: str) -> None:
    assert problem(recommender, parse, ASINS, tower, True, False) is None


@pytest.mark.parametrize(
    ("change", "least", "said"),
    [
        (nan, 1, "a score is not finite"),
        (shorter, 1, "items for `k` 10"),
        (again, 1, "recommends an item of the history"),
        (popular, 1, "fallback popular"),
        (near, 2, "answered otherwise in a batch than alone"),
    ],
)
def test_what_is_wrong_is_said(recommender: Recommender, change: Any, least: int, said: str) -> None:
    assert said in str(problem(Changed(recommender, change, least), parse, ASINS, "cf", True, False))


def test_a_backbone_of_fewer_bits_may_differ_a_little_in_company(recommender: Recommender) -> None:
    """Scores by a tenth, and some of the items: seen with a model of thirty layers in bfloat16. Not most of them."""
    for change in (near, rounded):
        assert problem(Changed(recommender, change, 2), parse, ASINS, "cf", False, False) is None
    assert "otherwise in a batch" in str(problem(Changed(recommender, rounded, 2), parse, ASINS, "cf", True, False))
    for change in (of_another_user, far):
        assert "otherwise in a batch" in str(problem(Changed(recommender, change, 2), parse, ASINS, "cf", False, False))


def test_a_model_that_keeps_repeats_may_recommend_what_was_bought(recommender: Recommender) -> None:
    changed = Changed(recommender, again, 1)
    assert "of the history" in str(problem(changed, parse, ASINS, "cf", True, False))
    assert problem(changed, parse, ASINS, "cf", True, True) is None
