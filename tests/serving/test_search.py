"""The best items for a user vector, against sorting all of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.serving.search import Exact, Sum, top


@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=20),
    k=st.integers(1, 25),
    exclude=st.sets(st.integers(0, 19)),
    last=st.sets(st.integers(0, 19)),
)
def test_top_against_sorting_everything(scores: list[int], k: int, exclude: set[int], last: set[int]) -> None:
    out = [index for index in exclude if index < len(scores)]
    slow = sorted((index in last, -score, index) for index, score in enumerate(scores) if index not in out)[:k]
    behind = np.isin(np.arange(len(scores)), list(last))
    best = top(np.array(scores, dtype=np.float32), k, np.array(out, dtype=int), behind)
    assert best.tolist() == [index for *_, index in slow]


@given(seed=st.integers(0, 999), items=st.integers(1, 12), k=st.integers(1, 14), users=st.integers(1, 3))
def test_exact_against_each_user_and_item_by_itself(seed: int, items: int, k: int, users: int) -> None:
    random = np.random.default_rng(seed)
    columns = random.integers(-2, 3, (3, items)).astype(np.float32)
    vectors = random.integers(-2, 3, (users, 3)).astype(np.float32)
    last = random.random(items) < 0.3
    exclude = [random.integers(0, items, 4) for _ in range(users)]  # some twice
    for vector, out, (best, scores) in zip(
        vectors, exclude, Exact(columns, last).best(vectors, k, exclude), strict=True
    ):
        of = [sum(float(a) * float(b) for a, b in zip(vector, columns[:, item], strict=True)) for item in range(items)]
        slow = sorted((bool(last[item]), -of[item], item) for item in range(items) if item not in set(out.tolist()))
        assert best.tolist() == [item for *_, item in slow[:k]]
        assert scores.tolist() == [-score for _, score, _ in slow[:k]]


@given(seed=st.integers(0, 999), items=st.integers(1, 14), k=st.integers(1, 14))
def test_a_sum_is_that_of_both(seed: int, items: int, k: int) -> None:
    random = np.random.default_rng(seed)
    first, second = (random.integers(-2, 3, (width, items)).astype(np.float32) for width in (3, 2))
    vectors, last = random.integers(-2, 3, (2, 5)).astype(np.float32), random.random(items) < 0.3
    exclude = [random.integers(0, items, 2) for _ in vectors]
    joined = Sum(Exact(first, last), Exact(second, last), last)
    for vector, out, (best, scores) in zip(vectors, exclude, joined.best(vectors, k, exclude), strict=True):
        of = [float(vector[:3] @ first[:, item] + vector[3:] @ second[:, item]) for item in range(items)]
        eligible = [item for item in range(items) if item not in set(out.tolist())]
        slow = sorted((bool(last[item]), -round(of[item], 4), item) for item in eligible)
        assert [(bool(last[item]), -round(of[item], 4)) for item in best] == [pair[:2] for pair in slow[:k]]
        np.testing.assert_allclose(scores, [of[item] for item in best], atol=1e-5)
        np.testing.assert_allclose(joined.shares(vector, best).sum(axis=0), scores, atol=1e-5)
