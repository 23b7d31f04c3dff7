"""Steps, checks, embedding and whole trainings on a device that is not the CPU give what they give on the CPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.engine import backbone, lora
from llmsrec.engine.prefix_store import Budget
from llmsrec.models.cf import teacher
from llmsrec.models.llm.retrieval import LLMSRec, Parts
from llmsrec.params import Model
from llmsrec.training.next_item import Samples, build, next_item_loss
from llmsrec.training.schedules import heads_first
from tests.other_device import PLACES, other_device
from tests.training.test_next_item import ITEMS, STRONG, routes, settings
from tests.training.test_together import close, steps, train

TITLES = [f"Thing number {number}" for number in range(30)]
STORES = {"in memory": Budget(), "in a file": Budget(0, 1 << 30), "nowhere": Budget(0, 0)}
CHANGES = [
    {"negatives": "own", "user_representation": True},
    {"negatives": "shared", "distill_loss": "contrastive"},
    {"negatives": "in_batch", "distill_normalize": True},
    {"negatives": "all"},
]


Place = Callable[[], AbstractContextManager[str]]


def built(tiny: Any, base: backbone.Backbone, chosen: Model, budget: Budget) -> LLMSRec:
    """An untrained model on the device of its backbone."""
    return LLMSRec(base, teacher.load(tiny.folder / "models/sasrec"), TITLES, chosen, 0, budget)


def vectors(model: LLMSRec, sequences: Any) -> dict[str, Any]:
    return {"items": model.item_vectors(), "users": model.user_vectors(sequences)}


@pytest.mark.parametrize(("kind", "targets"), [*((kind, "all") for kind in [*STORES, "LoRA"]), ("in memory", "last")])
@pytest.mark.parametrize("changes", CHANGES, ids=[str(changes["negatives"]) for changes in CHANGES])
@pytest.mark.parametrize("other", PLACES)
def test_steps_and_vectors(
    tiny: Any, tmp_path: Path, kind: str, changes: dict[str, Any], targets: str, other: Place
) -> None:
    chosen = Model(**{**tiny.config["model"], **changes})
    budget = STORES.get(kind, Budget())
    results = []
    for place in (nullcontext("cpu"), other()):
        base = backbone.load(tiny.folder / "models/backbone")
        if kind == "LoRA":
            base = lora.add_lora(base, 2, seed=0)
        if kind == "in a file":
            budget = replace(budget, folder=tmp_path / str(len(results)))
        with place as device:
            base.model.to(device)
            model = built(tiny, base, chosen, budget)
            assert {parameter.device.type for parameter in model.parameters()} == {device}
            results.append(steps(model, tiny.sequences, chosen, targets) | vectors(model, tiny.sequences))
    close(results[1], results[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("system", ["tallrec", "llara, a step of text alone", "a_llmrec"])
@pytest.mark.parametrize("other", PLACES)
def test_steps_and_vectors_of_the_systems_around_a_language_model(tiny: Any, system: str, other: Place) -> None:
    alone = {"distill": False, "uniform": False, "user_representation": system == "a_llmrec"}
    chosen = Model(**{**tiny.config["model"], **alone})
    parts = Parts(item_embedding=system != "tallrec", cf_user=False)
    codes = torch.rand(31, 5, generator=torch.Generator().manual_seed(0)) if system == "a_llmrec" else None
    results = []
    for place in (nullcontext("cpu"), other()):
        base = backbone.load(tiny.folder / "models/backbone")
        if system != "a_llmrec":
            base = lora.add_lora(base, 2, 0, 8, "query_value")
        with place as device:
            base.model.to(device)
            given = teacher.load(tiny.folder / "models/sasrec")
            model = LLMSRec(base, given, TITLES, chosen, 0, parts=parts, item_codes=codes)
            with model.text_alone() if "text alone" in system else nullcontext():
                results.append(steps(model, tiny.sequences, chosen, "all"))
            results[-1] |= vectors(model, tiny.sequences)
    close(results[1], results[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("other", PLACES)
def test_a_training_and_one_that_goes_on_from_the_cpu(tiny: Any, tmp_path: Path, other: Place) -> None:
    """What an other device's checkpoint holds is read on the CPU, and the other way round."""
    chosen = Model(**tiny.config["model"])

    def trained(resume: Path, epochs: int, on_other: bool) -> dict[str, Any]:
        base = backbone.load(tiny.folder / "models/backbone")
        with other() if on_other else nullcontext("cpu") as device:
            base.model.to(device)
            results = train(replace(tiny, model=built(tiny, base, chosen, Budget())), resume, epochs)
        return {name: value.cpu() if torch.is_tensor(value) else value for name, value in results.items()}

    alone = trained(tmp_path / "here", 2, on_other=False)
    close(trained(tmp_path / "there", 2, on_other=True), alone, rtol=1e-3, atol=5e-4)
    trained(tmp_path / "here, then there", 1, on_other=False)
    close(trained(tmp_path / "here, then there", 2, on_other=True), alone, rtol=1e-3, atol=5e-4)
    trained(tmp_path / "there, then here", 1, on_other=True)
    close(trained(tmp_path / "there, then here", 2, on_other=False), alone, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("other", PLACES)
def test_heads_alone_and_then_all(tiny: Any, tmp_path: Path, other: Place) -> None:
    chosen, results = Model(**{**tiny.config["model"], "negatives": "all"}), []
    for place in (nullcontext("cpu"), other()):
        base = backbone.load(tiny.folder / "models/backbone")
        with place as device:
            base.model.to(device)
            whole = replace(tiny, model=built(tiny, base, chosen, Budget()))
            trained = train(whole, tmp_path / device, 1, heads_first)
        results.append({name: value.cpu() if torch.is_tensor(value) else value for name, value in trained.items()})
    close(results[1], results[0], rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("other", PLACES)
@pytest.mark.parametrize("samples", ["sequences", "prefixes"])
def test_steps_and_vectors_of_sasrec(samples: str, other: Place) -> None:
    chosen = settings(**(STRONG if samples == "prefixes" else {}) | {"dropout": 0.0})
    sequences = routes()[0]
    rows = torch.from_numpy(Samples.of(sequences, chosen).rows(np.arange(20)))
    results = []
    for place in (nullcontext("cpu"), other()):
        with place as device:
            model = build(ITEMS, chosen).to(device)
            loss, _ = next_item_loss(model, rows.to(device), chosen, torch.Generator().manual_seed(0))
            loss.backward()
            values = {"loss": loss.detach(), "users": model.user_vectors(sequences)}
            values |= {name: parameter.grad for name, parameter in model.named_parameters()}
            results.append({name: value.cpu().numpy().copy() for name, value in values.items() if value is not None})
    close(results[1], results[0], rtol=1e-3, atol=1e-5)


def test_what_is_forgotten_on_the_cpu_is_refused() -> None:
    with other_device() as device:
        held = torch.arange(3.0, device=device)
        assert (held * 2)[torch.tensor([1])].tolist() == [2.0]
        with pytest.raises(RuntimeError, match="two devices"):
            held + torch.ones(3)
        with pytest.raises(RuntimeError, match="two devices"):
            torch.ones(3)[held.long()]
