"""A-LLMRec's stage 1: what a step minimises, from whom and against what it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmsrec.data import held_out
from llmsrec.data.sequences import Sequences
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.llm.allmrec import Autoencoders
from llmsrec.models.llm.settings import Alignment
from llmsrec.params import Train
from llmsrec.training import allmrec

WEIGHTS = Alignment(matching=1.0, item_reconstruction=0.5, text_reconstruction=0.2, recommendation=1.0)
TRAIN = Train(
    start="scratch", targets="last", batch_size=8, lr=0.01, lr_decay=1.0, beta2=0.98, weight_decay=0.0, input_lr=1.0,
    epochs=6, evaluations_per_epoch=1, patience=10, monitor="uni99/ndcg_10", seed=0,
)  # fmt: skip


@pytest.fixture
def given(tiny: Any) -> tuple[Any, ...]:
    teacher = teachers.load(tiny.folder / "models/sasrec")
    interactions = Sequences.read(tiny.folder / "data/filtered/interactions.parquet")
    texts = torch.randn(31, 12, generator=torch.Generator().manual_seed(0))
    return teacher, texts, interactions.drop_last(2), held_out.last(interactions, 2), WEIGHTS


def run(given: tuple[Any, ...], resume: Path, **changes: Any) -> tuple[Autoencoders, list[dict[str, Any]]]:
    model = Autoencoders(16, 12, 5, 0)
    return model, allmrec.train(model, *given, TRAIN.model_copy(update=changes), resume)


def test_a_step_is_the_weighted_sum_of_the_four_losses_item_by_item(given: tuple[Any, ...]) -> None:
    teacher, texts, *_ = given
    model, items = Autoencoders(16, 12, 5, 0), teacher.item_vectors().detach()
    users = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    targets, negatives = np.array([4, 9, 2]), np.array([7, 4, 30])
    parts = allmrec.step_losses(model, users, items, texts, targets, negatives, WEIGHTS)
    plain = dict.fromkeys(parts, torch.zeros(()))
    for user, target, negative in zip(users, targets, negatives, strict=True):
        for item, label in ((target, 1.0), (negative, 0.0)):
            code, text = model.item_codes(items[item]), model.text_codes(texts[item])
            decoded = model.item_decoder(code)
            score = torch.sigmoid(user @ decoded)
            terms = {
                "matching": (code - text).square().mean(),
                "item_reconstruction": 0.5 * (decoded - items[item]).square().mean(),
                "text_reconstruction": 0.2 * (model.text_decoder(text) - texts[item]).square().mean(),
                "recommendation": -torch.log(score if label else 1 - score),
            }
            plain = {name: plain[name] + value / 3 for name, value in terms.items()}
    for name, value in plain.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", ["last", "all"])
def test_all_users_are_learnt_from_and_a_negative_is_none_of_the_users_items(
    targets: str, given: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, _, sequences, *_ = given
    pairs: list[tuple[int, int]] = []
    states: list[Tensor] = []
    step = allmrec.step_losses

    def step_losses(
        model: Any, users: Tensor, items: Any, texts: Any, chosen: Any, negatives: Any, weights: Any
    ) -> Any:
        if torch.is_grad_enabled():
            pairs.extend(zip(chosen.tolist(), negatives.tolist(), strict=True))
            states.append(users)
        return step(model, users, items, texts, chosen, negatives, weights)

    monkeypatch.setattr(allmrec, "step_losses", step_losses)
    run(given, tmp_path, targets=targets, epochs=1)
    users = range(1, sequences.users + 1)
    expected = [
        h[t] for h in (sequences.of(u)[0] for u in users) for t in range(1 if targets == "all" else len(h) - 1, len(h))
    ]
    assert sorted(pair[0] for pair in pairs) == sorted(expected)
    assert not any(target == negative for target, negative in pairs)
    if targets == "last":
        history = {int(sequences.of(user)[0][-1]): set(sequences.of(user)[0].tolist()) for user in users}
        of = {target: negatives for target, negatives in pairs}
        counts = {target: sum(pair[0] == target for pair in pairs) for target, _ in pairs}
        assert all(of[target] not in history[target] for target, count in counts.items() if count == 1)
        before = teacher.user_vectors(sequences.drop_last(1))[1:]
        actual = torch.cat(states)
        assert all((actual - row).abs().amax(dim=1).min() < 1e-4 for row in before), "states before the last event"


def test_gradients_do_not_pile_up_and_the_losses_fall(given: tuple[Any, ...], tmp_path: Path) -> None:
    _, curve = run(given, tmp_path)
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert curve[-1]["valid/score"] > curve[0]["valid/score"]
    assert {"matching", "item_reconstruction", "text_reconstruction", "recommendation"} <= curve[0].keys()


def test_the_teacher_and_the_texts_stay_as_they_are_and_a_second_run_is_the_same(
    given: tuple[Any, ...], tmp_path: Path
) -> None:
    teacher, texts, *_ = given
    before = [parameter.detach().clone() for parameter in (*teacher.parameters(), texts)]
    first, _ = run(given, tmp_path / "a")
    second, _ = run(given, tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, (*teacher.parameters(), texts), strict=True))
