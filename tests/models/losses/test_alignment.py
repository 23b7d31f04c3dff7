"""The losses of A-LLMRec's stage 1 against sums over single numbers."""

import math

import pytest
import torch

from llmsrec.models.losses import alignment


def squared(a: torch.Tensor, b: torch.Tensor) -> float:
    pairs = zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
    return sum((x - y) ** 2 for x, y in pairs) / a.numel()


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_matching_is_the_squared_distance_of_positives_and_of_negatives() -> None:
    items, texts = (drawn(5, 3), drawn(5, 4)[:, :3]), (drawn(5, 6)[:, :3], drawn(5, 7)[:, :3])
    plain = squared(items[0], texts[0]) + squared(items[1], texts[1])
    assert float(alignment.matching(items, texts)) == pytest.approx(plain, rel=1e-5)
    assert float(alignment.matching(items, items)) == 0


def test_reconstruction_moves_what_is_decoded_and_not_what_it_is_compared_with() -> None:
    decoded = tuple(drawn(4, k)[:, :3].clone().requires_grad_() for k in (3, 4))
    originals = tuple(drawn(4, k)[:, :3].clone().requires_grad_() for k in (5, 6))
    loss = alignment.reconstruction(decoded, originals)
    loss.backward()
    plain = squared(decoded[0], originals[0]) + squared(decoded[1], originals[1])
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-5)
    assert all(tensor.grad is not None for tensor in decoded)
    assert all(tensor.grad is None for tensor in originals)


def test_recommendation_is_the_cross_entropy_of_summed_products() -> None:
    """Not of their mean over the dimensions, as in the published code."""
    users, positive, negative = drawn(6, 8), drawn(6, 9)[:, :8], drawn(6, 10)[:, :8]
    plain = 0.0
    for user, liked, other in zip(users.tolist(), positive.tolist(), negative.tolist(), strict=True):
        score = [sum(x * y for x, y in zip(user, item, strict=True)) for item in (liked, other)]
        chosen = [1 / (1 + math.exp(-value)) for value in score]
        plain -= math.log(chosen[0]) + math.log(1 - chosen[1])
    assert float(alignment.recommendation(users, (positive, negative))) == pytest.approx(plain / 6, rel=1e-4)
