"""Eq. 5 equals its sum written out, token by token."""

import math

import pytest
import torch

from llmsrec.models.losses import language


def test_the_loss_is_the_mean_of_each_tokens_surprise() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(7, 5, generator=generator), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    slow = 0.0
    for row, token in zip(logits.tolist(), tokens.tolist(), strict=True):
        slow -= math.log(math.exp(row[token]) / sum(math.exp(value) for value in row))
    assert language.title(logits, tokens).item() == pytest.approx(slow / 7, rel=1e-5)


def test_a_sure_model_loses_nothing_and_a_blind_one_the_logarithm_of_the_vocabulary() -> None:
    tokens = torch.tensor([1, 3])
    sure = torch.full((2, 4), -100.0).scatter(1, tokens[:, None], 100.0)
    assert language.title(sure, tokens).item() == pytest.approx(0, abs=1e-6)
    assert language.title(torch.zeros(2, 4), tokens).item() == pytest.approx(math.log(4))
