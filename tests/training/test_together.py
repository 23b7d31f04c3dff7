"""Two processes with half a batch each against one with the whole: losses, gradients, weights, vectors, resuming."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.engine.prefix_store import Memory
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.params import Model, Train
from llmsrec.training import next_item as sasrec
from llmsrec.training import retrieval as llm_srec
from llmsrec.training.batches import Samples
from llmsrec.training.schedules import heads_first
from tests import together
from tests.training.test_next_item import ITEMS, STRONG, routes, settings

ROWS = [np.arange(7), np.array([3, 9, 20]), np.array([5])]  # even, ragged, and too few for two


def close(actual: Any, expected: Any, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (value is None) == (actual[name] is None), name
        if value is not None:
            np.testing.assert_allclose(actual[name], np.asarray(value), rtol=rtol, atol=atol, err_msg=name)


def steps(model: Any, sequences: Any, chosen: Model, targets: Any) -> dict[str, Any]:
    """Losses and gradients of a step on each of `ROWS`."""
    from llmsrec import distributed

    samples = Samples.of(sequences, 30, targets, chosen.history)
    values: dict[str, Any] = {}
    for number, rows in enumerate(ROWS):
        model.zero_grad(set_to_none=True)
        parts = llm_srec.step_losses(model, samples, rows, chosen, np.random.default_rng(number))
        sum(parts.values()).backward()
        distributed.add_up_gradients(model.trainable().values())
        values |= {f"{number} {name}": loss.detach() for name, loss in parts.items()}
        values |= {f"{number} {name}": p.grad for name, p in model.trainable().items()}
    return {name: value if value is None else value.cpu().numpy().copy() for name, value in values.items()}


@pytest.mark.parametrize("targets", ["last", "all"])
@pytest.mark.parametrize(
    "changes",
    [
        {"negatives": "own"},
        {"negatives": "shared", "distill_loss": "contrastive", "distill_normalize": True},
        {"negatives": "shared", "distill": False, "uniform": False},
        {"negatives": "in_batch"},
        {"negatives": "all", "weights": {"retrieval": 1.0, "cf_retrieval": 0.5, "distill": 1.0, "uniform": 1.0}},
    ],
    ids=["own-mse", "shared-contrastive", "retrieval", "in-batch", "all"],
)
def test_a_step_of_two_processes_is_that_of_one(tiny: Any, changes: dict[str, Any], targets: Any) -> None:
    chosen = Model(**{**tiny.config["model"], **changes})
    model = copy.deepcopy(tiny.model)
    alone = steps(model, tiny.sequences, chosen, targets)
    assert any(abs(value).max() > 0 for name, value in alone.items() if "user_out" in name)
    for actual in together.run(2, steps, model, tiny.sequences, chosen, targets):
        close(actual, alone)


def held(model: LLMSRec, sequences: Any, chosen: Model) -> list[int]:
    """The items whose prefixes a process holds after some steps and an evaluation."""
    assert model.prefixes is not None and isinstance(model.prefixes.store, Memory)
    model.prefixes.store = Memory(model.prefixes.lengths, model.prefixes.store.get(torch.tensor([1]))[0][:1])
    steps(model, sequences, chosen, "all")
    model.item_vectors()
    everything = torch.arange(1, 31)
    return sorted(set(everything.tolist()) - set(model.prefixes.store.missing(everything).tolist()))


def test_no_prefix_is_computed_by_two_processes(tiny: Any) -> None:
    shares = together.run(2, held, copy.deepcopy(tiny.model), tiny.sequences, Model(**tiny.config["model"]))
    assert sorted(shares[0] + shares[1]) == list(range(1, 31))
    assert min(len(share) for share in shares) > 10


def train(tiny: Any, resume: Path, epochs: int, fit: Any = llm_srec.train) -> dict[str, Any]:
    """The weights, the curve and the validation vectors of a run.

    f_item's biases move all items' vectors alike, more or less, which changes a user's scores by a constant: their
    gradients are mostly rounding, of which Adam makes steps. So they are left out, and the vectors' mean too.
    """
    model, sequences, chosen = copy.deepcopy(tiny.model), tiny.sequences, Model(**tiny.config["model"])
    loop = Train(
        start="scratch", targets="all", batch_size=6, lr=0.003, lr_decay=0.9, beta2=0.98,
        weight_decay=0.01, input_lr=0.1, epochs=epochs, evaluations_per_epoch=2,
        patience=10, monitor="uni99/ndcg_10", seed=0,
    )  # fmt: skip
    users = np.arange(1, 31)
    last = sequences.items[sequences.offsets[users + 1] - 1]
    validation = llm_srec.Validation(
        sequences.drop_last(1), users, last, np.random.default_rng(0).integers(1, 31, (30, 9))
    )
    curve = fit(model, sequences.drop_last(1), validation, chosen, loop, resume)
    values = {f"{row['step']} {name}": value for row in curve for name, value in row.items()}
    items = model.item_vectors()[1:]
    values |= {"users": model.user_vectors(sequences, users), "items": items - items.mean(dim=0)}
    weights = {name: parameter.detach() for name, parameter in model.trainable().items()}
    return values | {name: weight for name, weight in weights.items() if not re.fullmatch(r"f_item.*bias", name)}


def test_llm_srec_ends_with_the_same_weights_whatever_the_processes_before_and_after_a_stop(
    tiny: Any, tmp_path: Path
) -> None:
    alone = train(tiny, tmp_path / "alone", 2)
    for actual in together.run(2, train, tiny, tmp_path / "two", 2):
        close(actual, alone, rtol=1e-3, atol=5e-4)
    train(tiny, tmp_path / "one then two", 1)
    for actual in together.run(2, train, tiny, tmp_path / "one then two", 2):
        close(actual, alone, rtol=1e-3, atol=5e-4)
    together.run(2, train, tiny, tmp_path / "two then one", 1)
    close(train(tiny, tmp_path / "two then one", 2), alone, rtol=1e-3, atol=5e-4)


def test_heads_alone_and_then_all_end_with_the_same_weights_in_two_processes(tiny: Any, tmp_path: Path) -> None:
    alone = train(tiny, tmp_path / "alone", 1, heads_first)
    for actual in together.run(2, train, tiny, tmp_path / "two", 1, heads_first):
        close(actual, alone, rtol=1e-3, atol=5e-4)


def train_sasrec(resume: Path, changes: dict[str, Any]) -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)  # the keys' biases have no gradient but rounding, which Adam makes steps of
    model, curve = sasrec.train(*routes(), ITEMS, settings(**({"dropout": 0.0, "epochs": 3} | changes)), resume)
    torch.set_default_dtype(torch.float32)
    values = {f"{row['epoch']} {name}": value for row in curve for name, value in row.items()}
    return values | {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "chosen",
    [
        {"loss": "bce", "batch_size": 59},  # of 60 users: the second batch is too small for two
        {"loss": "ce", "batch_size": 59},
        {"loss": "sampled_softmax", "batch_size": 59},
        {"loss": "gbce", "batch_size": 59},
        STRONG | {"schedule": "constant", "batch_size": 337},  # of 338 beginnings: the second batch has one
    ],
    ids=["bce", "ce", "sampled_softmax", "gbce", "strong"],
)
def test_sasrec_ends_with_the_same_weights_whatever_the_processes_before_and_after_a_stop(
    tmp_path: Path, chosen: dict[str, Any]
) -> None:
    alone = train_sasrec(tmp_path / "alone", chosen)
    train_sasrec(tmp_path / "one then two", chosen | {"epochs": 1})
    for actual in together.run(2, train_sasrec, tmp_path / "one then two", chosen):
        close(actual, alone, rtol=1e-9, atol=1e-12)
    together.run(2, train_sasrec, tmp_path / "two then one", chosen | {"epochs": 2})
    close(train_sasrec(tmp_path / "two then one", chosen), alone, rtol=1e-9, atol=1e-12)


def test_with_dropout_each_process_draws_its_own_and_a_run_can_be_repeated(tmp_path: Path) -> None:
    first, second = (
        together.run(2, train_sasrec, tmp_path / name, {"dropout": 0.5, "epochs": 1}) for name in ("a", "b")
    )
    alone = train_sasrec(tmp_path / "alone", {"dropout": 0.5, "epochs": 1})
    close(first[0], first[1], rtol=0, atol=0)
    close(first[0], second[0], rtol=0, atol=0)
    assert abs(first[0]["position.weight"] - alone["position.weight"].numpy()).max() > 1e-4
