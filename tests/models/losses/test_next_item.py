import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmsrec.models.losses import next_item as losses


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def plain_bce(scores: list[list[float]], targets: list[int], negatives: list[int]) -> float:
    terms = [
        -math.log(sigmoid(row[target])) - math.log(1 - sigmoid(row[negative]))
        for row, target, negative in zip(scores, targets, negatives, strict=True)
    ]
    return sum(terms) / len(terms)


def plain_cross_entropy(scores: list[list[float]], targets: list[int]) -> float:
    terms = [-math.log(math.exp(row[t]) / sum(map(math.exp, row[1:]))) for row, t in zip(scores, targets, strict=True)]
    return sum(terms) / len(terms)


def plain_smoothed(scores: list[list[float]], targets: list[int], smoothing: float) -> float:
    terms = []
    for row, target in zip(scores, targets, strict=True):
        total = sum(map(math.exp, row[1:]))
        weights = [smoothing / len(row[1:]) + (1 - smoothing) * (item == target) for item in range(1, len(row))]
        terms.append(-sum(w * math.log(math.exp(score) / total) for w, score in zip(weights, row[1:], strict=True)))
    return sum(terms) / len(terms)


def plain_sampled_softmax(scores: list[list[float]], targets: list[int], negatives: list[int]) -> float:
    terms = []
    for row, target in zip(scores, targets, strict=True):
        others = [math.exp(row[n]) for n in negatives if n != target]
        terms.append(-math.log(math.exp(row[target]) / (math.exp(row[target]) + sum(others))))
    return sum(terms) / len(terms)


def plain_gbce(scores: list[list[float]], targets: list[int], negatives: list[int], t: float) -> float:
    share = min(1, len(negatives) / (len(scores[0]) - 2))
    beta = share * (t * (1 - 1 / share) + 1 / share)
    start = math.log(beta / len(negatives))
    terms = []
    for row, target in zip(scores, targets, strict=True):
        others = [math.log(1 - sigmoid(row[n] + start)) for n in negatives if n != target]
        terms.append(-(math.log(sigmoid(row[target] + start) ** beta) + sum(others)) / (len(negatives) + 1))
    return sum(terms) / len(terms)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """users [N, d], targets [N], own negatives [N], shared negatives [K], items [I + 1, d]"""
    count, dim, items, shared = (draw(st.integers(1, high)) for high in (9, 4, 12, 15))
    items += 1
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([0.1, 1.0, 3.0]))
    return (
        torch.randn(count, dim, generator=generator, dtype=torch.float64) * scale,
        torch.randint(1, items + 1, (count,), generator=generator),
        torch.randint(1, items + 1, (count,), generator=generator),
        torch.randint(1, items + 1, (shared,), generator=generator),
        torch.randn(items + 1, dim, generator=generator, dtype=torch.float64),
    )


@given(batches(), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_each_loss_agrees_with_its_definition(batch, t):
    users, targets, negatives, shared, items = batch
    scores, y, own, k = (x.tolist() for x in (users @ items.T, targets, negatives, shared))
    assert losses.bce(users, targets, negatives, items).item() == pytest.approx(plain_bce(scores, y, own))
    assert losses.cross_entropy(users, targets, items).item() == pytest.approx(plain_cross_entropy(scores, y))
    assert losses.cross_entropy(users, targets, items, t).item() == pytest.approx(plain_smoothed(scores, y, t))
    assert losses.sampled_softmax(users, targets, shared, items).item() == pytest.approx(
        plain_sampled_softmax(scores, y, k)
    )
    assert losses.gbce(users, targets, shared, items, t).item() == pytest.approx(plain_gbce(scores, y, k, t))


def test_gbce_without_calibration_is_binary_cross_entropy_and_with_all_items_too():
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(5, 3, generator=generator), torch.randn(7, 3, generator=generator)
    targets, shared = torch.tensor([1, 2, 3, 1, 2]), torch.tensor([4, 5, 6])
    scores = users @ items.T - math.log(3)
    positive, negative = scores.gather(1, targets[:, None]), scores[:, shared]
    plain = -(positive.sigmoid().log() + (1 - negative.sigmoid()).log().sum(1, keepdim=True)).mean() / 4
    assert losses.gbce(users, targets, shared, items, 0.0).item() == pytest.approx(plain.item(), rel=1e-5)
    many = torch.arange(1, 7)  # more negatives than other items: beta stays 1
    assert losses.gbce(users, targets, many, items, 1.0).item() == pytest.approx(
        losses.gbce(users, targets, many, items, 0.0).item()
    )


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce_at_first_pulls_targets_as_hard_as_it_pushes_negatives(t):
    """Else all items go one way first, and SASRec, whose inputs they are, learns nothing but popularity."""
    items, users = torch.zeros(1002, 2, requires_grad=True), torch.ones(5, 2)
    loss = losses.gbce(users, torch.arange(1, 6), torch.arange(6, 262), items, t)
    gradient = torch.autograd.grad(loss, items)[0]
    pulls, pushes = gradient[:6].sum(), gradient[6:].sum()
    assert pulls < -1e-4
    assert pushes.item() == pytest.approx(-pulls.item(), rel=2e-3)  # beta / K is small against 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_cross_entropy_in_chunks_has_torchs_loss_and_gradients(monkeypatch, count, dtype, smoothing):
    monkeypatch.setattr(losses, "CHUNK_BYTES", 0)  # the smallest chunks
    generator = torch.Generator().manual_seed(count)
    users = torch.randn(count, 5, generator=generator, dtype=dtype, requires_grad=True)
    items = torch.randn(31, 5, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(1, 31, (count,), generator=generator)
    plain = torch.nn.functional.cross_entropy(users @ items[1:].T, targets - 1, label_smoothing=smoothing)
    expected = torch.autograd.grad(3 * plain, (users, items))
    loss = losses.cross_entropy(users, targets, items, smoothing)
    actual = torch.autograd.grad(3 * loss, (users, items))
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert actual[1][0].count_nonzero() == 0


def test_full_cross_entropy_of_large_scores_is_finite():
    users = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    items = torch.tensor([[0.0], [1.0], [-1.0]], requires_grad=True)
    loss = losses.cross_entropy(users, torch.tensor([1, 1]), items)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert torch.isfinite(users.grad).all() and torch.isfinite(items.grad).all()


def test_full_cross_entropy_never_holds_all_scores():
    """What autograd would keep of `[N, I]` scores is far above the chunk; only the allocator knows what was held."""
    users, items = torch.randn(4096, 4, requires_grad=True), torch.randn(4097, 4, requires_grad=True)
    targets = torch.randint(1, 4097, (4096,))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        losses.cross_entropy(users, targets, items).backward()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak < 3 * losses.CHUNK_BYTES < 4096 * 4096 * 4 / 4


@pytest.mark.parametrize("name", ["sampled_softmax", "gbce"])
def test_a_negative_that_is_the_target_gets_no_gradient_as_negative(name):
    items = torch.zeros(5, 2, requires_grad=True)
    users, targets = torch.ones(1, 2), torch.tensor([3])
    extra = (0.5,) if name == "gbce" else ()
    loss = getattr(losses, name)
    only = torch.autograd.grad(loss(users, targets, torch.tensor([3, 3]), items, *extra), items)[0]
    assert (only[3] <= 0).all() and only[[0, 1, 2, 4]].count_nonzero() == 0


def test_shared_negatives_are_uniform_and_follow_their_generator():
    draws = [losses.draw_shared(6, 60_000, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    counts = torch.bincount(draws[0], minlength=7)
    assert counts[0] == 0 and len(counts) == 7
    assert (counts[1:] - 10_000).abs().max() < 500


@given(st.integers(1, 9), st.data())
@settings(max_examples=50, deadline=None)
def test_unseen_negatives_are_uniform_over_what_a_row_lacks(items, data):
    rows = data.draw(st.lists(st.lists(st.integers(0, items), min_size=6, max_size=6), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    draws = losses.draw_unseen(torch.tensor(rows), items, 2000, generator)
    for row, drawn in zip(rows, draws.tolist(), strict=True):
        lacks = sorted(set(range(1, items + 1)) - set(row)) or list(range(1, items + 1))
        assert set(drawn) <= set(lacks)
        if set(range(1, items + 1)) - set(row):
            counts = np.array([drawn.count(item) for item in lacks])
            expected = 2000 / len(lacks)
            assert np.abs(counts - expected).max() < 6 * math.sqrt(expected)  # six standard errors


def test_unseen_negatives_follow_their_generator():
    own = torch.tensor([[0, 2, 5]])
    first, same, other = (losses.draw_unseen(own, 50, 100, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
