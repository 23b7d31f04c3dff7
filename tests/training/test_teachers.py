"""GRU4Rec, BERT4Rec and NextItNet in SASRec's loop: what they learn from, and that a stop changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmsrec import params
from llmsrec.models.cf.bert4rec import BERT4Rec
from llmsrec.models.cf.teacher import MASK, Teacher
from llmsrec.models.losses import next_item as losses
from llmsrec.systems import cf
from llmsrec.training import next_item
from tests.training.test_next_item import ITEMS, routes, same, scores, sequences

TRAINING: dict[str, Any] = {
    "max_length": 8, "samples": "sequences", "loss": "ce", "label_smoothing": 0.0, "negatives": 16, "gbce_t": 0.75,
    "batch_size": 16, "lr": 0.01, "schedule": "linear", "epochs": 3, "patience": 10, "seed": 3,
}  # fmt: skip
SYSTEMS: dict[str, tuple[type[params.NextItem], dict[str, Any]]] = {
    "gru4rec": (cf.GRU4Rec, {"dim": 16, "hidden": 24, "layers": 1, "embedding_dropout": 0.1, "dropout": 0.1}),
    "nextitnet": (cf.NextItNet, {"dim": 16, "dilations": [1, 2], "dropout": 0.1}),
    "bert4rec": (
        cf.BERT4Rec,
        {"dim": 16, "blocks": 1, "heads": 2, "dropout": 0.1, "mask_share": 0.3, "last_share": 0.5},
    ),
}


def settings(system: str, **changes: Any) -> Any:
    kind, own = SYSTEMS[system]
    return kind(**(TRAINING | own | changes))


def train(system: str, resume: Path, **changes: Any) -> tuple[Teacher, list[dict[str, Any]]]:
    return next_item.train(*routes(), ITEMS, settings(system, **changes), resume)


@pytest.mark.parametrize("samples", ["sequences", "prefixes"])
@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("gru4rec", {"embedding_dropout": 0.0, "lr": 0.02, "epochs": 12}),
        ("nextitnet", {"lr": 0.02, "epochs": 12}),
        ("bert4rec", {"mask_share": 0.5, "epochs": 40}),
    ],
)
def test_each_learns_what_comes_next(tmp_path: Path, system: str, changes: dict[str, Any], samples: str) -> None:
    size = 8 if samples == "sequences" else 32
    model, curve = train(
        system, tmp_path, samples=samples, schedule="constant", **changes, dropout=0.0, batch_size=size
    )
    best = max(row["valid/full/ndcg_10"] for row in curve)
    assert best > 0.6  # at random, ten of about 23 items: below 0.25
    _, histories, targets = routes()
    assert not model.training and next_item.validate(model, histories, targets) == best


@pytest.mark.parametrize("samples", ["sequences", "prefixes"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_that_stops_between_epochs_goes_on_as_if_it_had_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, system: str, samples: str
) -> None:
    whole, curve = train(system, tmp_path / "whole", samples=samples)
    assert f"{system} epoch 3/3: loss" in capsys.readouterr().out
    validate, checks = next_item.validate, iter([True, True, False])

    def stopped(*arguments: Any) -> float:
        if not next(checks):
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(next_item, "validate", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(system, tmp_path / "parts", samples=samples)
    monkeypatch.setattr(next_item, "validate", validate)
    resumed, again = train(system, tmp_path / "parts", samples=samples)
    assert f"{system}: going on after epoch 2" in capsys.readouterr().out
    assert same(whole, resumed) and scores(curve) == scores(again)


@pytest.mark.parametrize("system", ["gru4rec", "nextitnet"])
@pytest.mark.parametrize("samples", ["sequences", "prefixes"])
def test_each_real_position_or_the_last_alone_has_the_next_item_as_its_target(
    monkeypatch: pytest.MonkeyPatch, system: str, samples: str
) -> None:
    chosen = settings(system, samples=samples)
    model = next_item.build(ITEMS, chosen).eval()
    rows = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    users, targets = seen_by_the_loss(monkeypatch, model, rows, chosen)
    alone = [model(torch.tensor([[5, 6]]))[0], model(torch.tensor([[1, 2, 3, 4]]))[0]]
    if samples == "prefixes":
        alone = [vectors[-1:] for vectors in alone]
    assert targets.tolist() == ([6, 7, 2, 3, 4, 5] if samples == "sequences" else [7, 5])
    torch.testing.assert_close(users, torch.cat(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("last_share", [0.0, 1.0])
def test_each_masked_position_has_the_item_under_the_mask_as_its_target(
    monkeypatch: pytest.MonkeyPatch, last_share: float
) -> None:
    chosen = settings("bert4rec", mask_share=0.5, last_share=last_share)
    model = next_item.build(ITEMS, chosen).eval()
    assert isinstance(model, BERT4Rec)
    rows = torch.tensor([[0, 0, 10, 6, 7], [1, 2, 3, 4, 5], [0, 0, 0, 8, 9]])
    hidden = next_item.masked(rows, chosen, torch.Generator().manual_seed(0))
    users, targets = seen_by_the_loss(monkeypatch, model, rows, chosen)
    expected, alone = [], []
    for row, places in zip(rows.tolist(), hidden.tolist(), strict=True):
        masked = [MASK if place else item for item, place in zip(row, places, strict=True)]
        vectors = model(torch.tensor([[item for item in masked if item]]))[0]
        for back in range(1, len(vectors) + 1):
            if places[-back]:
                expected.append(row[-back])
                alone.append(vectors[-back])
    order = torch.tensor(targets.tolist()).argsort()
    assert sorted(expected) == targets[order].tolist() and (last_share == 0 or expected == [7, 5, 9])
    torch.testing.assert_close(users[order], torch.stack(alone)[torch.tensor(expected).argsort()], rtol=1e-5, atol=1e-6)


def test_masks_are_drawn_as_often_as_the_shares_say_and_never_over_padding() -> None:
    rows = torch.zeros(20_000, 6, dtype=torch.int64)
    rows[:, 2:] = 3
    rows[:100, 2:5] = 0  # samples of one item
    chosen = settings("bert4rec", mask_share=0.3, last_share=0.4)
    hidden = next_item.masked(rows, chosen, torch.Generator().manual_seed(0))
    assert not hidden[rows == 0].any() and hidden.any(dim=1).all() and hidden[:100, -1].all()
    several = hidden[100:]
    alone = (several.sum(dim=1) == 1) & several[:, -1]
    none_drawn = 0.7**4 + 0.7**3 * 0.3  # then the last is masked, or it is the only one drawn
    assert abs(alone.float().mean() - (0.4 + 0.6 * none_drawn)) < 0.02
    assert abs(several[:, 2].float().mean() - 0.6 * 0.3) < 0.02
    again = next_item.masked(rows, chosen, torch.Generator().manual_seed(0))
    other = next_item.masked(rows, chosen, torch.Generator().manual_seed(1))
    assert torch.equal(hidden, again) and not torch.equal(hidden, other)


def test_users_with_a_single_event_are_left_out(tmp_path: Path) -> None:
    training = sequences([[1], [2, 3], [3]])
    for system in SYSTEMS:
        _, curve = next_item.train(training, training, np.array([2, 1, 1]), 3, settings(system), tmp_path / system)
        assert np.isfinite([row["loss"] for row in curve]).all()


def seen_by_the_loss(
    monkeypatch: pytest.MonkeyPatch, model: Teacher, rows: Tensor, chosen: Any
) -> tuple[Tensor, Tensor]:
    """The user vectors and targets that a step's cross-entropy is computed of."""
    seen: list[tuple[Tensor, Tensor]] = []
    original = losses.cross_entropy

    def spy(users: Tensor, targets: Tensor, *rest: Any) -> Tensor:
        seen.append((users, targets))
        return original(users, targets, *rest)

    monkeypatch.setattr(losses, "cross_entropy", spy)
    value, count = next_item.next_item_loss(model, rows, chosen, torch.Generator().manual_seed(0))
    ((users, targets),) = seen
    assert torch.isfinite(value) and count == len(targets)
    return users, targets
