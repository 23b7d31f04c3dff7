import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.models.losses import retrieval as losses


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


sizes = {"users": st.integers(1, 6), "width": st.integers(1, 5), "seed": st.integers(0, 1000)}


@given(users=sizes["users"], candidates=st.integers(2, 5), seed=sizes["seed"])
def test_retrieval_is_eq_1(users: int, candidates: int, seed: int) -> None:
    scores = random(users, candidates, seed=seed)
    slow = 0.0
    for row in scores.tolist():
        slow -= math.log(math.exp(row[0]) / sum(math.exp(score) for score in row)) / users
    assert losses.retrieval(scores).item() == pytest.approx(slow)


@given(normalize=st.booleans(), **sizes)
def test_distill_mse_is_eq_2(users: int, width: int, seed: int, normalize: bool) -> None:
    cf, user = random(users, width, seed=seed), random(users, width, seed=seed + 1)
    slow = 0.0
    for a, b in zip(cf.tolist(), user.tolist(), strict=True):
        norm_a = math.hypot(*a) if normalize else 1.0
        norm_b = math.hypot(*b) if normalize else 1.0
        slow += sum((x / norm_a - y / norm_b) ** 2 for x, y in zip(a, b, strict=True)) / (users * width)
    assert losses.distill_mse(cf, user, normalize).item() == pytest.approx(slow)


@given(**sizes)
def test_distill_contrastive_is_eq_10(users: int, width: int, seed: int) -> None:
    cf, user = random(users, width, seed=seed), random(users, width, seed=seed + 1)
    slow = 0.0
    for u in range(users):
        scores = [math.exp(sum(x * y for x, y in zip(user[u].tolist(), other, strict=True))) for other in cf.tolist()]
        slow -= math.log(scores[u] / sum(scores)) / users
    assert losses.distill_contrastive(cf, user, False).item() == pytest.approx(slow)


@given(owners=st.lists(st.integers(1, 3), min_size=1, max_size=6), width=sizes["width"], seed=sizes["seed"])
def test_uniform_is_a_term_of_eq_3(owners: list[int], width: int, seed: int) -> None:
    vectors = random(len(owners), width, seed=seed)
    unit = [[x / math.hypot(*row) for x in row] for row in vectors.tolist()]
    pairs = [
        math.exp(-2 * math.dist(unit[a], unit[b]) ** 2)
        for a in range(len(owners))
        for b in range(a)
        if owners[a] != owners[b]
    ]
    slow = sum(pairs) / len(pairs) if pairs else 0.0
    assert losses.uniform(vectors, torch.tensor(owners)).item() == pytest.approx(slow, abs=1e-12)


def test_uniform_has_finite_gradients_for_equal_vectors() -> None:
    vectors = torch.ones(3, 4, requires_grad=True)
    losses.uniform(vectors, torch.arange(3)).backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


def test_popular_candidates_weigh_in_the_softmax_as_uniform_ones_do() -> None:
    """Over many pools, the corrected sum of exp(score) is, up to one factor, that over the whole catalogue."""
    rng, share, scores = (
        np.random.default_rng(0),
        np.array([0.6, 0.3, 0.1, 0.0, 0.0]),
        np.array([0.3, -1.0, 0.5, 1.0, 0.0]),
    )
    excess = losses.log_excess(torch.from_numpy(share), 3, 2, 5).numpy()
    assert excess[3] == 0
    weights, plain, pools = np.zeros(5), np.zeros(5), 20_000
    for _ in range(pools):
        pool = np.unique(np.concatenate([rng.integers(0, 5, 2), rng.choice(5, 3, p=share)]))
        weights[pool] += np.exp(scores - excess)[pool] / pools
        plain[pool] += np.exp(scores)[pool] / pools
    expected = np.exp(scores) * (1 - 0.8**2)
    np.testing.assert_allclose(weights, expected, rtol=0.05)
    assert plain[0] > 2 * expected[0], "else there is nothing to correct"
