"""Two towers joined, against doing each step by hand."""

import numpy as np
import pytest

from llmsrec.evaluation import blend
from llmsrec.evaluation.blend import Blend

USERS, ITEMS = 60, 30


def vectors(seed: int, width: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    users, items = random.normal(size=(USERS, width)) * scale, random.normal(size=(ITEMS + 1, width)) + 0.5
    items[0] = 0
    return users.astype(np.float32), items.astype(np.float32)


def towers() -> tuple[blend.Pair, blend.Pair]:
    """Users and items of two towers, whose scores are of very different sizes."""
    (llm, llm_items), (teacher, teacher_items) = vectors(0, 6, 1.0), vectors(1, 3, 50.0)
    return (llm, teacher), (llm_items, teacher_items)


def asked(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets that both towers know something of, and histories of one item each."""
    random = np.random.default_rng(2)
    (llm, teacher), (llm_items, teacher_items) = towers()
    truth = llm @ llm_items[1:].T + teacher @ teacher_items[1:].T / 50 + noise * random.normal(size=(USERS, ITEMS))
    order = np.argsort(-truth, axis=1) + 1
    return order[:, 0], np.arange(USERS + 1), order[:, -1]


def by_hand(weight: float, targets: np.ndarray, history: np.ndarray) -> float:
    """NDCG@10 of a weight, score by score."""
    (llm, teacher), (llm_items, teacher_items) = towers()
    scores = [
        np.array([[float(u.astype(np.float64) @ i) for i in items[1:]] for u in users])
        for users, items in ((llm, llm_items), (teacher, teacher_items))
    ]
    spreads = [np.mean([np.std(row) for row in of]) for of in scores]
    joined = (1 - weight) * scores[0] / spreads[0] + weight * scores[1] / spreads[1]
    total = 0.0
    for row, target, seen in zip(joined, targets, history, strict=True):
        place = sum(row[item - 1] >= row[target - 1] for item in range(1, ITEMS + 1) if item not in (target, seen))
        total += 1 / np.log2(place + 2) if place < 10 else 0.0
    return total / USERS


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_the_weight_is_the_best_of_all_by_hand(noise):
    users, items = towers()
    targets, offsets, history = asked(noise)
    actual = blend.fit(users, items, targets, offsets, history)
    scores = {weight: by_hand(weight, targets, history) for weight in blend.WEIGHTS.round(2).tolist()}
    assert scores[actual.weight] == pytest.approx(max(scores.values()))
    assert 0 < actual.weight < 1 and actual.weight == min(
        w for w, of in scores.items() if of >= max(scores.values()) - 1e-9
    )


def test_the_spread_is_that_of_the_scores():
    users, items = towers()
    for of_users, of_items in zip(users, items, strict=True):
        scores = of_users.astype(np.float64) @ of_items[1:].T
        assert blend.spread(of_users, of_items) == pytest.approx(np.mean(scores.std(axis=1)), rel=1e-6)


def test_a_sum_of_scores_is_a_product_of_vectors_behind_each_other():
    (llm, teacher), (llm_items, teacher_items) = towers()
    joined = Blend(0.3, 0.7, 0.02)
    actual = joined.users(llm, teacher) @ blend.items(llm_items, teacher_items).T
    expected = 0.7 * (llm @ llm_items.T) + 0.02 * (teacher @ teacher_items.T)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_tower_that_gives_all_items_one_score_leaves_the_other_as_it_is():
    (llm, teacher), (llm_items, teacher_items) = towers()
    same = np.ones_like(teacher_items)
    targets, offsets, history = asked(0.5)
    actual = blend.fit((llm, teacher), (llm_items, same), targets, offsets, history)
    assert actual.weight == 0 and np.isfinite(actual.llm)


def test_of_equals_the_language_model_alone_is_taken():
    (llm, _), (llm_items, _) = towers()
    actual = blend.fit((llm, llm), (llm_items, llm_items), *asked(0.5))
    assert actual.weight == 0
