import math

import numpy as np
import pytest
import torch

from llmsrec.models.cf.sasrec import SASRec
from llmsrec.models.cf.teacher import INIT_STD
from llmsrec.models.text.ctrl import Alignment, contrast, text_table


def vectors(items: int, width: int, rank: int | None = None) -> torch.Tensor:
    """Text vectors as encoders give them: a large mean, and variances that fall."""
    generator = torch.Generator().manual_seed(0)
    rank = rank or width
    spread = torch.randn(items, rank, generator=generator) * 2.0 ** -torch.arange(rank)
    made = 10 + spread @ torch.randn(rank, width, generator=generator)
    return torch.cat([torch.zeros(1, width), made])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_the_table_is_the_texts_principal_components_each_of_the_same_variance():
    texts = vectors(40, 6)
    table = text_table(texts, 4, 3.0, generator())
    assert table.shape == (41, 4) and table.dtype == torch.float32 and not table[0].any()
    torch.testing.assert_close(table[1:].mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(table[1:].std(dim=0, correction=0), torch.full((4,), 3 * INIT_STD), rtol=1e-4, atol=0)
    values, directions = np.linalg.eigh(np.cov(texts[1:].double().numpy().T, bias=True))
    centred = texts[1:].double().numpy() - texts[1:].double().numpy().mean(axis=0)
    for column in range(4):
        plain = centred @ directions[:, -1 - column] / math.sqrt(values[-1 - column]) * 3 * INIT_STD
        actual = table[1:, column].numpy()
        np.testing.assert_allclose(actual * np.sign(actual @ plain), plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("items", "width", "rank"), [(40, 3, 3), (40, 6, 2), (3, 6, 6)])
def test_what_the_texts_do_not_fill_is_random_of_the_same_scale(items, width, rank):
    table = text_table(vectors(items, width, rank), 16, 1.0, generator())
    assert torch.isfinite(table).all() and not table[0].any()
    assert 0.7 * INIT_STD < table[1:].std() < 1.3 * INIT_STD
    again, other = text_table(vectors(items, width, rank), 16, 1.0, generator()), torch.Generator().manual_seed(2)
    assert torch.equal(table, again)
    assert not torch.equal(table, text_table(vectors(items, width, rank), 16, 1.0, other))


def test_texts_that_are_all_the_same_leave_a_random_table():
    table = text_table(torch.full((11, 4), 0.1), 8, 1.0, generator())
    assert torch.isfinite(table).all() and 0.5 * INIT_STD < table[1:].std() < 1.5 * INIT_STD


def test_contrast_is_that_of_a_loop_without_pairs_of_the_same_item():
    users, texts = torch.nn.functional.normalize(torch.randn(2, 5, 3, generator=generator()), dim=-1)
    targets = torch.tensor([4, 2, 4, 1, 3])
    total = 0.0
    for row in range(5):
        for one, others in ((users[row], texts), (texts[row], users)):
            scores = [
                float(one @ others[other]) / 0.1 for other in range(5) if other == row or targets[other] != targets[row]
            ]
            total += math.log(sum(map(math.exp, scores))) - float(one @ others[row]) / 0.1
    assert float(contrast(users, texts, targets, 0.1)) == pytest.approx(total / 10, rel=1e-5)


def test_alignment_trains_the_backbone_and_its_maps_and_leaves_the_texts():
    backbone = SASRec(9, 8, 1, 1, 6, 0.0).initialise(generator())
    model = Alignment(backbone, vectors(9, 5), generator())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    histories, targets = torch.tensor([[0, 1, 2], [3, 4, 5], [0, 0, 7]]), torch.tensor([3, 6, 8])
    before, texts = backbone.item.weight.clone(), model.vectors.clone()
    losses = []
    for _ in range(60):
        loss = model(histories, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert torch.equal(model.vectors, texts) and not torch.equal(backbone.item.weight, before)
    assert not backbone.item.weight[0].any()


def test_a_text_that_never_changes_makes_no_nan():
    model = Alignment(SASRec(9, 8, 1, 1, 6, 0.0).initialise(generator()), torch.ones(10, 5), generator())
    assert torch.isfinite(model(torch.tensor([[1, 2], [3, 4]]), torch.tensor([5, 6])))
