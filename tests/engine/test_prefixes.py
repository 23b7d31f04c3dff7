"""Reusing item prefixes gives what whole prompts give: values, losses and gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.engine.decoder import Decoder
from llmsrec.engine.prefix_store import Budget, File, Memory
from llmsrec.engine.prefixes import ItemPrefixes
from llmsrec.engine.readout import read_out
from llmsrec.models.llm.retrieval import LLMSRec

ITEMS = 9


@pytest.fixture
def model(tiny_backbone: Any, teacher: Any, settings: Any) -> LLMSRec:
    titles = ["Soap", "a much longer title than the others have", *(f"Tent {k}" for k in range(ITEMS - 2))]
    return LLMSRec(tiny_backbone, teacher, titles, settings, seed=0)


def gradients(model: LLMSRec, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)
    model.zero_grad()
    (hidden * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}


def budget(kind: str, folder: Path) -> Budget:
    return {"at each use": Budget(0), "memory": Budget(1 << 30), "file": Budget(0, 1 << 30, folder)}[kind]


@pytest.mark.parametrize("ids", [[1], [2, 1], [3, 2, 2, 9, 1]], ids=["one", "ragged", "repeated"])
@pytest.mark.parametrize("kind", ["at each use", "memory", "file"])
@pytest.mark.parametrize("whole_layers", [False, True])
def test_values_and_gradients_equal_whole_prompts(
    model: LLMSRec, ids: list[int], kind: str, whole_layers: bool, tmp_path: Path
) -> None:
    item_ids = torch.tensor(ids)
    decoder = None if whole_layers else Decoder.of(model.backbone)
    prefixes = ItemPrefixes(model.backbone, decoder, model.prompts, ITEMS, budget(kind, tmp_path))
    assert type(prefixes.store) is {"at each use": type(None), "memory": Memory, "file": File}[kind]
    plain = read_out(model.backbone, model.prompts.items(np.array(ids)), model.item_inputs, model.item_out)
    expected = gradients(model, plain)
    for _ in range(2):  # a cache that is changed in place goes wrong at the second use
        reused = prefixes.read_out(item_ids, model.item_inputs, model.item_out)
        torch.testing.assert_close(reused, plain, rtol=1e-5, atol=1e-6)
        actual = gradients(model, reused)
        assert actual.keys() == expected.keys() >= {"item_out", "f_I.0.weight", "f_I.3.bias"}
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, rtol=1e-5, atol=1e-6 * gradient.abs().max().item())


def test_prefixes_are_the_same_whoever_asks_first(model: LLMSRec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run asks in another order; what is computed together must not follow from it."""
    monkeypatch.setattr("llmsrec.engine.prefixes.GROUP", 4)
    everything = []
    for order in ([3, 1, 9, 2, 8, 4, 5, 7, 6], [6, 7], [9, 8, 1]):
        prefixes = ItemPrefixes(model.backbone, None, model.prompts, ITEMS, Budget())
        for item in order:
            prefixes.read_out(torch.tensor([item]), model.item_inputs, model.item_out)
        everything.append(prefixes._gather(torch.arange(1, ITEMS + 1)))
    assert torch.equal(everything[0], everything[1])
    assert torch.equal(everything[0], everything[2])


def test_the_limit_in_tokens_holds_for_prefixes(tiny_backbone: Any, teacher: Any, settings: Any) -> None:
    titles = ["word " * 60] * ITEMS
    model = LLMSRec(tiny_backbone, teacher, titles, settings.model_copy(update={"title_tokens": 200}), seed=0)
    ids = torch.tensor([4])
    assert model.prompts.items(ids.numpy()).lengths[0] <= settings.max_tokens
    plain = read_out(model.backbone, model.prompts.items(ids.numpy()), model.item_inputs, model.item_out)
    assert model.prefixes is not None
    torch.testing.assert_close(model.hidden_items(ids), plain, rtol=1e-5, atol=1e-6)


def test_prefixes_hold_no_gradient(model: LLMSRec) -> None:
    prefixes = ItemPrefixes(model.backbone, model.decoder, model.prompts, ITEMS, Budget())
    prefixes.read_out(torch.tensor([1, 2]), model.item_inputs, model.item_out)
    assert prefixes.store is not None
    assert not prefixes.store.get(torch.tensor([1, 2]))[0].requires_grad
