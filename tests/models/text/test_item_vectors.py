import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llmsrec.errors import DataError
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.cf.sasrec import SASRec
from llmsrec.models.text import item_vectors
from llmsrec.models.text.whitening import Whitening
from llmsrec.training import next_item
from tests.models.text.test_ctrl import vectors
from tests.training.test_ctrl import vectors as of_the_round
from tests.training.test_next_item import ITEMS, routes, scores, sequences, settings

KINDS = ("text", "sum", "null_space")


def untrained(dim: int = 8) -> SASRec:
    return SASRec(40, dim, 1, 1, 8, 0.0).initialise(torch.Generator().manual_seed(0))


def attached(items: str, texts: Tensor, seed: int = 0) -> tuple[SASRec, Whitening, dict[str, Tensor]]:
    """A teacher whose item vectors are made of titles by random values, and these values."""
    model = untrained()
    whitening = item_vectors.attach(model, items, texts)
    generator = torch.Generator().manual_seed(seed)
    learned = {
        name.rpartition(".")[2]: parameter
        for name, parameter in model.named_parameters()
        if name.startswith("item.parametrizations")
    }
    with torch.no_grad():
        for parameter in learned.values():
            parameter.normal_(generator=generator)
        if items != "text":
            learned["original1"][0] = 0
    return model, whitening, learned


def plain(items: str, texts: Tensor, learned: dict[str, Tensor]) -> np.ndarray:
    """The table number by number."""
    whitening = Whitening.of(texts)
    components = whitening(texts).numpy()
    components /= np.sqrt(np.mean(np.sum(components[1:] ** 2, axis=1)))
    own = {name: tensor.detach().double().numpy() for name, tensor in learned.items()}
    table = np.zeros((len(texts), 8))
    for item in range(1, len(texts)):
        for column in range(8):
            if items == "null_space":
                half = len(own["original0"])
                text = components[item, column] * own["original0"][column] if column < half else 0.0
                rest = own["original1"][item, column - half] if column >= half else 0.0
            else:
                rows = zip(components[item], own["original0"][:, column], strict=True)
                text, rest = sum(x * p for x, p in rows), own["original1"][item, column] if items == "sum" else 0.0
            table[item, column] = text + rest
    return table


@pytest.mark.parametrize("items", KINDS)
@pytest.mark.parametrize(("width", "rank"), [(12, 12), (12, 3)])
def test_the_table_is_that_of_a_loop_before_and_after(items, width, rank):
    texts = vectors(40, width, rank)
    model, whitening, learned = attached(items, texts)
    expected = plain(items, texts, learned)
    np.testing.assert_allclose(model.item_vectors().detach(), expected, rtol=1e-4, atol=1e-5)
    history = torch.tensor([[0, 3, 5, 7]])
    before = model.last(history)
    item_vectors.detach(model, whitening)
    np.testing.assert_allclose(model.item_vectors().detach(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.last(history), before)
    assert model.state_dict().keys() == untrained().state_dict().keys()


@pytest.mark.parametrize("items", KINDS)
def test_a_new_item_has_the_vector_of_its_title_and_the_mean_of_the_ids(items):
    texts = vectors(40, 12)
    model, whitening, learned = attached(items, texts)
    actual = item_vectors.detach(model, whitening)
    assert actual["projection"].shape == (12, 8) and actual["bias"].shape == (8,)
    if items != "text":
        learned["original1"] = learned["original1"][1:].mean(dim=0).expand(41, -1)
    expected = plain(items, texts, learned)[1:]
    np.testing.assert_allclose(texts[1:] @ actual["projection"] + actual["bias"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("items", KINDS)
def test_the_texts_stay_as_they_are_and_all_else_learns(items):
    model = untrained()
    item_vectors.attach(model, items, vectors(40, 12))
    texts = copy.deepcopy(model.item.parametrizations.weight[0].texts)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    assert all(parameter.is_contiguous() for parameter in model.parameters())  # or fused Adam writes elsewhere
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    (model.item_vectors() @ model.last(torch.tensor([[3, 5, 7]]))[0]).logsumexp(dim=0).backward()
    optimizer.step()
    assert torch.equal(model.item.parametrizations.weight[0].texts, texts)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def trained(resume: Path, items: str, **changes: object) -> tuple[SASRec, dict[str, Tensor], list[dict]]:
    """On the round of test_next_item, whose titles say where in it an item stands."""
    of = settings(items=items, **({"dropout": 0.0, "lr": 0.02, "epochs": 12} | changes))
    first = next_item.build(ITEMS, of)
    whitening = item_vectors.attach(first, items, of_the_round())
    model, curve = next_item.train(*routes(), ITEMS, of, resume, first=first)
    return model, item_vectors.detach(model, whitening), curve


@pytest.mark.parametrize("items", KINDS)
def test_a_training_that_is_cut_goes_on_and_ends_the_same(tmp_path, items):
    whole, of_titles, curve = trained(tmp_path / "whole", items)
    trained(tmp_path / "cut", items, epochs=5)
    again, again_titles, again_curve = trained(tmp_path / "cut", items)
    assert scores(again_curve) == scores(curve)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(of_titles[name], again_titles[name]) for name in of_titles)
    assert max(row["valid/full/ndcg_10"] for row in curve) > 0.7


def test_an_item_without_an_event_stands_beside_its_neighbours_by_its_title_and_not_by_its_id(tmp_path):
    """Of the round some items are left out."""
    new, known = [7, 17, 27], routes()[0]
    walks = [known.of(user)[0].tolist() for user in range(1, known.users + 1)]
    walks = [walk for walk in walks if len(walk) > 2 and not set(walk) & set(new)]
    histories, targets = sequences([walk[:-1] for walk in walks]), np.array([walk[-1] for walk in walks])
    of, texts, beside = settings(dropout=0.0, lr=0.02, epochs=20), of_the_round(), {}
    for items in ("id", "text"):
        first = next_item.build(ITEMS, of)
        whitening = item_vectors.attach(first, items, texts) if items != "id" else None
        model, _ = next_item.train(histories, histories, targets, ITEMS, of, tmp_path / items, first=first)
        table = model.item_vectors().detach()
        if whitening is not None:
            of_titles = item_vectors.detach(model, whitening)
            by_title = texts[new] @ of_titles["projection"] + of_titles["bias"]
            torch.testing.assert_close(by_title, table[new], rtol=1e-3, atol=1e-3)
        nearest = torch.nn.functional.cosine_similarity(table[new][:, None], table[None, 1:], dim=-1).argsort(dim=1)
        beside[items] = [{*row[-3:-1].tolist()} == {item - 2, item} for item, row in zip(new, nearest, strict=True)]
    assert all(beside["text"]) and not any(beside["id"])


def test_files_are_read_as_they_were_written_and_bad_ones_are_named(tmp_path):
    assert item_vectors.load(tmp_path) is None
    of_titles = {"projection": torch.randn(12, 8), "bias": torch.randn(8)}
    item_vectors.save(tmp_path, of_titles)
    assert all(torch.equal(value, of_titles[name]) for name, value in item_vectors.load(tmp_path).items())
    (tmp_path / item_vectors.FILE).write_bytes(b"x")
    with pytest.raises(DataError, match=r"titles\.safetensors cannot be read"):
        item_vectors.load(tmp_path)


def test_titles_that_are_all_the_same_are_refused():
    with pytest.raises(DataError, match=r"`sasrec\.items` is text, but the vectors of all 40 titles are the same"):
        item_vectors.attach(untrained(), "text", torch.full((41, 4), 0.1))


@pytest.mark.parametrize("items", KINDS)
def test_what_is_saved_is_a_plain_sasrec(tmp_path, items):
    model, of_titles, _ = trained(tmp_path / "state", items, epochs=1)
    teachers.save(model, tmp_path)
    item_vectors.save(tmp_path, of_titles)
    read = teachers.load(tmp_path, "sasrec")
    assert torch.equal(read.item_vectors(), model.item_vectors())
