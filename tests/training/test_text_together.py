"""CTRL and RECFORMER in two processes that share the work are what they are in one."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmsrec.training import ctrl, recformer
from tests import together
from tests.training import test_ctrl as of_ctrl
from tests.training import test_recformer as of_recformer
from tests.training.test_next_item import settings
from tests.training.test_together import close


def figures(curve: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"{row['step']} {name}": value for row in curve for name, value in row.items()}


def train_recformer(resume: Path, epochs: int) -> dict[str, Any]:
    chosen = of_recformer.settings(dropout=0.0, batch_size=41, pretrain_epochs=1, epochs=epochs, frozen_epochs=1)
    _, items, curve = recformer.train(of_recformer.texts(), *of_recformer.routes(), chosen, resume)
    return figures(curve) | {"items": items}


def test_recformer(tmp_path: Path) -> None:
    alone = train_recformer(tmp_path / "alone", 1)
    for actual in together.run(2, train_recformer, tmp_path / "two", 1):
        close(actual, alone, rtol=1e-2, atol=1e-3)


def align(resume: Path) -> dict[str, Any]:
    known, asked = of_ctrl.validation()
    chosen = of_ctrl.chosen(alignment_epochs=1)
    model, curve = ctrl.first(of_ctrl.vectors(), known, asked, settings(dropout=0.0), chosen, resume)
    return figures(curve) | {"items": model.item_vectors().detach()}


def test_ctrls_alignment(tmp_path: Path) -> None:
    alone = align(tmp_path / "alone")
    for actual in together.run(2, align, tmp_path / "two"):
        close(actual, alone, rtol=1e-2, atol=1e-3)


def losses_of_one() -> dict[str, torch.Tensor]:
    made = of_recformer.trainer(*of_recformer.routes())
    return made.pretraining([np.array([1])], np.array([2]), np.random.default_rng(0))


def test_a_process_without_a_row_of_its_own_takes_part() -> None:
    alone = {name: value.detach() for name, value in losses_of_one().items()}
    for actual in together.run(2, losses_of_one):
        close(actual, alone, rtol=1e-3, atol=1e-5)
