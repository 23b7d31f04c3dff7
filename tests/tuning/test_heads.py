"""Heads on remembered outputs against the whole model with its inputs frozen, run anew at every step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.data.sequences import Sequences
from llmsrec.models.llm import retrieval as llm_srec
from llmsrec.params import Model, Train
from llmsrec.training.retrieval import Validation, train
from llmsrec.tuning import heads

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
def case(request: Any, tiny: Any, validation: Validation) -> tuple[Train, heads.Outputs]:
    settings = TRAIN.model_copy(update={"targets": request.param})
    return settings, heads.compute(load(tiny), validation.histories, validation, settings)


def plain(tiny: Any, validation: Validation, settings: Train, folder: Path) -> tuple[Any, Any]:
    """The slow twin: the pipeline's own training with frozen inputs, which computes anew what the other remembers."""
    model = load(tiny)
    fresh = llm_srec.build(
        tiny.folder / "models/backbone", tiny.folder / "models/sasrec", tiny.folder / "data/filtered/items.parquet",
        tiny.config["model"], tiny.config["backbone"], settings.seed,
    )  # fmt: skip
    for name, parameter in model.trainable().items():
        if name.startswith(("f_user.", "f_item.", "f_cf_user.")):
            parameter.data.copy_(fresh.trainable()[name])
        else:
            parameter.requires_grad_(False)
    return model, train(model, validation.histories, validation, Model(**tiny.config["model"]), settings, folder)


def test_heads_train_as_with_outputs_recomputed_at_every_step(
    tiny: Any, validation: Validation, case: tuple[Train, heads.Outputs], tmp_path: Path
) -> None:
    settings, outputs = case
    model, expected = plain(tiny, validation, settings, tmp_path / "plain")
    made = heads.RememberedHeads(outputs, model.prompts, model.teacher, Model(**tiny.config["model"]), settings.seed)
    assert made.trainable().keys() == model.trainable().keys()
    curve = train(
        made, validation.histories, validation, Model(**tiny.config["model"]), settings, tmp_path / "heads",
        losses_of=heads.losses_of,
    )  # fmt: skip
    assert len(curve) == len(expected) == 4
    for found, wanted in zip(curve, expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)
    users, histories = validation.users, validation.histories
    # f_item's last bias adds the same to all scores of a user, so its gradient is 0 but for rounding: left out.
    items = [vectors[1:] - vectors[1:].mean(dim=0) for vectors in (made.item_vectors(), model.item_vectors())]
    pairs = [
        (items[0], items[1]),
        (made.user_vectors(histories, users), model.user_vectors(histories, users)),
        (made.f_cf_user(outputs.seen), model.f_cf_user(outputs.seen)),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
