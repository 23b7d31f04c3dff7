import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsrec.serving.neighbours import Directions, diverse


def mmr(scores: list[float], directions: np.ndarray, k: int, diversity: float) -> list[int]:
    """Carbonell & Goldstein's formula, item by item; a set of none is like nothing."""
    low, high = min(scores), max(scores)
    chosen: list[int] = []
    while len(chosen) < min(k, len(scores)):
        gains = {}
        for i, score in enumerate(scores):
            if i not in chosen:
                relevance = (score - low) / (high - low) if high > low else 0.0
                similarity = max((float(directions[i] @ directions[j]) for j in chosen), default=0.0)
                gains[i] = round((1 - diversity) * relevance - diversity * similarity, 9)
        chosen.append(max(gains, key=lambda i: (gains[i], -i)))
    return chosen


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 12), k=st.integers(1, 14), diversity=st.sampled_from([0, 0.3, 1])
)
def test_diverse_against_the_formula_item_by_item(seed: int, count: int, k: int, diversity: float) -> None:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.normal(size=count))[::-1]
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert diverse(scores, directions, k, diversity).tolist() == mmr(scores.tolist(), directions, k, diversity)


def test_without_diversity_the_best_stay_the_best_and_with_all_of_it_a_twin_comes_last() -> None:
    scores, directions = np.array([3.0, 2.9, 0.0]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert diverse(scores, directions, 3, 0.0).tolist() == [0, 1, 2]
    assert diverse(scores, directions, 3, 1.0).tolist() == [0, 2, 1]
    assert diverse(np.array([2.0, 2.0]), directions[:2], 2, 0.5).tolist() == [0, 1], "of equals the first"
    assert diverse(np.array([]), directions[:0], 3, 0.5).tolist() == []


def test_directions_against_cosines_one_by_one() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 9)).astype(np.float32)
    vectors[:, 5] = 0
    directions, wanted = Directions(vectors), rng.normal(size=4).astype(np.float32)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / lengths if lengths else 0.0

    expected = [cosine(wanted, vectors[:, i]) for i in range(9)]
    np.testing.assert_allclose(directions.cosines(wanted), expected, atol=1e-6)
    items, among = np.array([0, 5, 7]), np.array([2, 3, 8])
    near, cosines = directions.nearest(items, among)
    for item, other, actual in zip(items, near, cosines, strict=True):
        all_of_them = {j: cosine(vectors[:, item], vectors[:, j]) for j in among.tolist()}
        assert (
            abs(all_of_them[int(other)] - max(all_of_them.values())) < 1e-6 and abs(actual - all_of_them[other]) < 1e-6
        )
    assert not directions.cosines(np.zeros(4, dtype=np.float32)).any()
