import numpy as np
import pytest
import torch

from llmsrec.models.text.whitening import Whitening
from tests.models.text.test_ctrl import vectors


@pytest.mark.parametrize(("items", "width", "rank"), [(40, 6, 6), (40, 6, 3), (4, 6, 3)])
def test_components_are_uncorrelated_and_of_variance_1_the_texts_largest_first(items, width, rank):
    texts = vectors(items, width, rank)
    actual = Whitening.of(texts)(texts)
    assert actual.shape == (items + 1, rank) and actual.dtype == torch.float64 and not actual[0].any()
    np.testing.assert_allclose(np.cov(actual[1:].numpy().T, bias=True), np.eye(rank), atol=1e-6)
    np.testing.assert_allclose(actual[1:].mean(dim=0), np.zeros(rank), atol=1e-6)
    plain = texts[1:].double().numpy() - texts[1:].double().numpy().mean(axis=0)
    values, directions = np.linalg.eigh(plain.T @ plain / items)
    for column in range(rank):
        own = plain @ directions[:, -1 - column] / values[-1 - column] ** 0.5
        assert abs(own @ actual[1:, column].numpy()) / items == pytest.approx(1, abs=1e-3)  # but for its sign


def test_a_text_that_it_was_not_made_of_goes_the_same_way():
    texts = vectors(40, 6)
    of = Whitening.of(texts)
    torch.testing.assert_close(of(torch.cat([texts[:1], texts[5:6]]))[1], of(texts)[5])


def test_texts_that_are_all_the_same_have_no_component():
    same = torch.full((11, 4), 0.1)
    assert Whitening.of(same)(same).shape == (11, 0)
