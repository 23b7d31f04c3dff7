from pathlib import Path

import numpy as np
import pytest
import torch

from llmsrec.data.held_out import HeldOut
from llmsrec.data.sequences import Sequences
from llmsrec.models.cf.sasrec import SASRec
from llmsrec.models.text.ctrl import text_table
from llmsrec.training import ctrl, next_item
from llmsrec.training.loop import Curve
from llmsrec.training.validation import Validation
from tests.training.test_next_item import ITEMS, routes, settings


def vectors() -> torch.Tensor:
    """Texts that say where in the round an item stands."""
    angle = torch.arange(ITEMS + 1) * 2 * torch.pi / ITEMS
    waves = [wave(angle * turns) for turns in (1, 2, 3) for wave in (torch.sin, torch.cos)]
    return torch.stack(waves, dim=1) + 5


def chosen(**changes: object) -> ctrl.Settings:
    values = {
        "encoder": {"model": None, "revision": None},
        "text_tokens": 32,
        "scale": 3.0,
        "alignment": "contrastive",
        "alignment_epochs": 3,
    }
    return ctrl.Settings(**(values | changes))


def validation() -> tuple[Sequences, Validation]:
    known, histories, targets = routes()
    return known, Validation(histories, targets, histories)


def first(resume: Path, **changes: object) -> tuple[SASRec, Curve]:
    known, asked = validation()
    return ctrl.first(vectors(), known, asked, settings(dropout=0.0), chosen(**changes), resume)


def same(left: SASRec, right: SASRec) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_without_alignment_only_the_item_table_differs_from_the_control(tmp_path):
    model, curve = first(tmp_path, alignment="none")
    control = next_item.build(ITEMS, settings(dropout=0.0))
    assert curve == [] and not any(tmp_path.iterdir())
    for name, value in model.named_parameters():
        assert torch.equal(value, control.get_parameter(name)) == (name != "item.weight")
    generator = torch.Generator().manual_seed(settings().seed)
    assert torch.equal(model.item.weight, text_table(vectors(), 16, 3.0, generator))


def test_alignment_brings_histories_near_the_text_of_what_comes_next(tmp_path):
    model, curve = first(tmp_path, alignment_epochs=25)
    assert [row["epoch"] for row in curve] == list(range(1, 26))
    assert max(row["valid/full/ndcg_10"] for row in curve) > 0.6  # at random below .25
    assert not same(model, first(tmp_path / "none", alignment="none")[0])


def test_an_alignment_that_stops_between_epochs_goes_on_as_if_it_had_not(tmp_path):
    whole, curve = first(tmp_path / "whole")
    first(tmp_path / "parts", alignment_epochs=1)
    resumed, again = first(tmp_path / "parts")
    assert same(whole, resumed) and curve == again


@pytest.mark.parametrize("at_most", [None, 10, 100])
def test_validation_of_some_users_is_that_of_these_alone(at_most):
    _, histories, targets = routes()
    held = HeldOut(np.arange(1, len(targets) + 1), histories, targets)
    asked = Validation.of(held, "first", at_most, seed=1)
    assert len(asked.targets) == min(at_most or 60, 60)
    for row, target in enumerate(asked.targets):
        before = asked.histories.of(row + 1)[0].tolist()
        assert any(targets[user - 1] == target and histories.of(user)[0].tolist() == before for user in range(1, 61))
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(len(asked.targets) + 1, 4)), rng.normal(size=(ITEMS + 1, 4))
    total = 0.0
    for row, target in enumerate(asked.targets, start=1):
        seen = set(asked.histories.of(row)[0].tolist())
        score = items @ users[row]
        rank = sum(score[i] >= score[target] for i in range(1, ITEMS + 1) if i not in seen and i != target)
        total += 1 / np.log2(rank + 2) if rank < 10 else 0.0
    assert asked.score(users, items) == pytest.approx(total / len(asked.targets))
    assert len(Validation.of(held, "keep", at_most).excluded.items) == 0
