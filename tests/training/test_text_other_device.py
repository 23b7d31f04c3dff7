"""CTRL's and RECFORMER's steps, vectors and encoders on a device that is not the CPU give what they give on the CPU."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmsrec.engine import backbone
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.models.text.ctrl import Alignment
from llmsrec.training import ctrl, next_item, recformer
from tests.other_device import other_device
from tests.training import test_ctrl as of_ctrl
from tests.training import test_recformer as of_recformer
from tests.training.test_next_item import ITEMS, settings
from tests.training.test_together import close


def kept(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in values.items()}


def with_gradients(model: nn.Module, losses: dict[str, Tensor]) -> dict[str, Any]:
    sum(losses.values(), start=torch.zeros((), device=next(model.parameters()).device)).backward()
    return losses | {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


@pytest.mark.parametrize("phase", ["pretraining", "next_item"])
def test_recformers_steps_and_vectors(phase: str) -> None:
    texts, results = of_recformer.texts(), []
    known, validation = of_recformer.routes()
    for place in (nullcontext("cpu"), other_device()):
        with place as device:
            chosen = of_recformer.settings(dropout=0.0)
            model = recformer.build(texts, chosen).to(device).eval()
            made = recformer.Trainer(model, texts, known, validation, chosen, Path())
            histories = [np.array([1, 2]), np.array([7])]
            losses = getattr(made, phase)(histories, np.array([3, 8]), np.random.default_rng(0))
            vectors = {"users": model.vectors(texts, known), "items": made.items()}
            results.append(kept(with_gradients(model, losses) | vectors))
    close(results[1], results[0], rtol=1e-3, atol=1e-5)


def test_ctrls_alignment() -> None:
    results = []
    for place in (nullcontext("cpu"), other_device()):
        with place as device:
            generator = torch.Generator().manual_seed(0)
            model = next_item.build(ITEMS, settings(dropout=0.0)).to(device)
            pair = Alignment(model, of_ctrl.vectors().to(device), generator).to(device).eval()
            histories, targets = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([3, 6])
            losses = {"contrast": pair(histories.to(device), targets.to(device))}
            results.append(kept(with_gradients(pair, losses)))
    close(results[1], results[0], rtol=1e-3, atol=1e-5)


def test_a_whole_alignment(tmp_path: Path) -> None:
    known, asked = of_ctrl.validation()
    results = []
    for place in (nullcontext("cpu"), other_device()):
        with place as device:
            chosen, resume = of_ctrl.chosen(alignment_epochs=1), tmp_path / device
            given = of_ctrl.vectors(), known, asked, settings(dropout=0.0), chosen, resume, device
            model, curve = ctrl.first(*given)
            results.append({**kept({"items": model.item_vectors()}), "loss": curve[0]["loss"]})
    close(results[1], results[0], rtol=1e-2, atol=1e-3)


def test_text_vectors(tiny: Any) -> None:
    results = []
    for place in (nullcontext("cpu"), other_device()):
        encoder = backbone.load(tiny.folder / "models/backbone")
        with place as device:
            encoder.model.to(device)
            results.append({"texts": text_vectors(encoder, tiny.catalogue["title"].to_list())})
    close(results[1], results[0], rtol=1e-3, atol=1e-5)
