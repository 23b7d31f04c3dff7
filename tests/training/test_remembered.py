"""Heads on remembered outputs against the whole model with its inputs frozen, run anew at every step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.models.llm import retrieval as llm_srec
from llmsrec.params import Model, Train
from llmsrec.training import remembered
from llmsrec.training.retrieval import Validation, train
from llmsrec.training.schedules import HEADS

TRAIN = Train(
    start="scratch", targets="all", batch_size=4, lr=0.0002, lr_decay=0.9, beta2=0.98,
    weight_decay=0.01, input_lr=0.1, epochs=2, evaluations_per_epoch=2, patience=10,
    monitor="uni99/ndcg_10", seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def validation(tiny: Any) -> Validation:
    interactions = Sequences.read(tiny.folder / "data/filtered/interactions.parquet")
    users = np.arange(1, 31)
    negatives = np.random.default_rng(0).integers(1, 31, (30, 9))
    last = interactions.offsets[users + 1] - 2
    return Validation(interactions.drop_last(2), users, interactions.items[last], negatives)


def load(tiny: Any) -> llm_srec.LLMSRec:
    models, items = tiny.folder / "models", tiny.folder / "data/filtered/items.parquet"
    return llm_srec.load(models / "llm_srec", models / "backbone", models / "sasrec", items)


@pytest.fixture(scope="module", params=["all", "last"])
def case(request: Any, tiny: Any, validation: Validation) -> tuple[Train, remembered.Outputs]:
    settings = TRAIN.model_copy(update={"targets": request.param})
    return settings, remembered.compute(load(tiny), validation.histories, validation, settings)


def plain(
    tiny: Any, validation: Validation, of: Model, settings: Train, folder: Path
) -> tuple[Any, list[dict[str, Any]]]:
    """The slow twin: the pipeline's own training with frozen inputs, which computes anew what the other remembers."""
    model = load(tiny)
    fresh = llm_srec.build(
        tiny.folder / "models/backbone", tiny.folder / "models/sasrec", tiny.folder / "data/filtered/items.parquet",
        tiny.config["model"], tiny.config["backbone"], settings.seed,
    )  # fmt: skip
    for name, parameter in model.trainable().items():
        if name.startswith(HEADS):
            parameter.data.copy_(fresh.trainable()[name])
        else:
            parameter.requires_grad_(False)
    return model, train(model, validation.histories, validation, of, settings, folder)


@pytest.mark.parametrize("negatives", ["own", "all"])
def test_heads_train_as_with_outputs_recomputed_at_every_step(
    tiny: Any, validation: Validation, case: tuple[Train, remembered.Outputs], negatives: str, tmp_path: Path
) -> None:
    settings, outputs = case
    of = Model(**{**tiny.config["model"], "negatives": negatives})
    model, expected = plain(tiny, validation, of, settings, tmp_path / "plain")
    made = remembered.RememberedHeads(outputs, model.prompts, model.teacher, of, settings.seed)
    assert made.trainable().keys() == model.trainable().keys()
    curve = train(
        made, validation.histories, validation, of, settings, tmp_path / "heads", losses_of=remembered.losses_of
    )
    assert len(curve) == len(expected) == 4
    for actual, wanted in zip(curve, expected, strict=True):
        assert actual == pytest.approx(wanted, abs=1e-5)
    users, histories = validation.users, validation.histories
    # f_item's last bias adds the same to all scores of a user, so its gradient is 0 but for rounding: left out.
    items = [vectors[1:] - vectors[1:].mean(dim=0) for vectors in (made.item_vectors(), model.item_vectors())]
    pairs = [
        (items[0], items[1]),
        (made.user_vectors(histories, users), model.user_vectors(histories, users)),
        (made.f_cf_user(outputs.seen), model.f_cf_user(outputs.seen)),
    ]
    for actual, wanted in pairs:
        torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=0)


def test_outputs_are_computed_once_and_again_for_another_key(
    tiny: Any, validation: Validation, tmp_path: Path, capsys: Any
) -> None:
    path, asked = tmp_path / "outputs.safetensors", []

    def model() -> llm_srec.LLMSRec:
        asked.append(1)
        return load(tiny)

    first, second, other = (
        remembered.remember(path, key, model, validation.histories, validation, TRAIN) for key in ("a", "a", "b")
    )
    assert len(asked) == 2
    assert f"the outputs in {path} are of other data or another model" in capsys.readouterr().out
    for name, tensor in vars(first).items():
        assert torch.equal(tensor, vars(second)[name]) and torch.equal(tensor, vars(other)[name]), name
    actual = sum(tensor.nbytes for tensor in vars(first).values())
    assert remembered.size(load(tiny), validation.histories, validation, TRAIN) == actual


def test_a_disk_too_small_is_one_line_before_anything_is_computed(
    tiny: Any, validation: Validation, tmp_path: Path, full: None
) -> None:
    model = load(tiny)
    model.hidden_positions = None  # type: ignore[assignment, method-assign]
    with pytest.raises(DataError, match=r"outputs take 0\.00 GiB, and .* does not have them: File too large\. Nothing"):
        remembered.remember(tmp_path / "x", "a", lambda: model, validation.histories, validation, TRAIN)
    assert not list(tmp_path.iterdir())
