"""Training by title: what a step learns from, and that a broken-off run ends as one that nothing disturbed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.data.choices import COUNT, Choices, Titles
from llmsrec.data.held_out import HeldOut
from llmsrec.data.sequences import Sequences
from llmsrec.engine import backbone as backbones
from llmsrec.engine import lora
from llmsrec.errors import DataError
from llmsrec.models.cf.sasrec import SASRec
from llmsrec.models.llm.titles import TitleModel
from llmsrec.params import Train
from llmsrec.prompts.retrieval import DAY_MS, PromptSettings
from llmsrec.training.titles import MONITOR, Samples, Validation, step_losses, train

TITLES = [f"{word} {k}" for k in range(14) for word in ("soap", "tent")]
SETTINGS = Train(
    start="scratch", targets="all", batch_size=4, lr=0.01, lr_decay=0.9, beta2=0.98, weight_decay=0.01, input_lr=0.1,
    epochs=2, evaluations_per_epoch=2, patience=10, monitor="uni99/ndcg_10", seed=0,
)  # fmt: skip


def events(lengths: list[int]) -> Sequences:
    rng = np.random.default_rng(0)
    offsets = np.array([0, 0, *np.cumsum(lengths)])
    items = np.concatenate([rng.permutation(len(TITLES))[:n] + 1 for n in lengths]).astype(np.int32)
    return Sequences(offsets, items, DAY_MS * (15_000 + np.arange(offsets[-1])))


SEQUENCES = events([1, 2, 6, 3, 4, 5, 2, 7])


def build(folder: Path, settings: Any, rank: int = 2) -> TitleModel:
    teacher = SASRec(items=len(TITLES), dim=8, blocks=1, heads=1, max_length=6, dropout=0.5)
    teacher.initialise(torch.Generator().manual_seed(1))
    backbone = backbones.load(folder, vocabulary=True)
    backbone = lora.add_lora(backbone, rank, seed=0) if rank else backbone
    holds = replace(PromptSettings.of(settings), user_representation=True, max_tokens=1_000)
    return TitleModel(backbone, teacher, TITLES, holds, seed=0)


def validation() -> Validation:
    rng = np.random.default_rng(1)
    shown = np.stack([rng.permutation(len(TITLES))[:COUNT] + 1 for _ in range(8)]).astype(np.int32)
    drawn = Choices(shown, rng.integers(0, COUNT, 8))
    return Validation.of(HeldOut(np.arange(1, 9), SEQUENCES, np.zeros(8, dtype=np.int32)), drawn, 5, 0)


@pytest.mark.parametrize("every", [False, True])
def test_a_sample_has_its_history_before_it_and_19_titles_that_the_user_does_not_know(every: bool) -> None:
    samples = Samples.of(SEQUENCES, Titles.of(TITLES), every, 3)
    assert samples.users.tolist() == [2, 3, 4, 5, 6, 7, 8], "a user with one event has no target"
    rows, targets = np.array([6, 0, 3]), set()
    for seed in range(40):
        items, times, places, drawn = samples.draw(rows, np.random.default_rng(seed))
        for k, user in enumerate(samples.users[rows]):
            theirs, moments = SEQUENCES.of(user)
            at = int(places[k] - SEQUENCES.offsets[user])
            targets.add((user, at))
            assert 1 <= at < len(theirs) and (every or at == len(theirs) - 1)
            assert items[k].tolist() == theirs[max(0, at - 3) : at].tolist()
            assert times[k].tolist() == moments[max(0, at - 3) : at].tolist()
            assert drawn.items[k, drawn.places[k]] == theirs[at]
            assert not set(drawn.negatives[k].tolist()) & set(theirs.tolist())
            assert len(set(drawn.items[k].tolist())) == COUNT
        before = samples.before(places, rows, 4)
        assert [[i for i in row if i][-3:] for row in before.tolist()] == [of.tolist() for of in items]
    assert len(targets) == (6 + 1 + 3 if every else 3)


def test_a_draw_follows_from_its_generator_alone() -> None:
    samples = Samples.of(SEQUENCES, Titles.of(TITLES), True, 3)
    first, again, other = (samples.draw(np.arange(5), np.random.default_rng(seed))[3].items for seed in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_run_that_is_broken_off_goes_on_to_the_same_weights(
    backbone_folder: Path, settings: Any, tmp_path: Path
) -> None:
    def run(model: TitleModel, resume: Path, **options: Any) -> list[dict[str, Any]]:
        return train(model, SEQUENCES, Titles.of(TITLES), validation(), SETTINGS, resume, **options)

    whole, broken, again = (build(backbone_folder, settings) for _ in range(3))
    curve = run(whole, tmp_path / "whole")
    assert [set(entry) for entry in curve] == [
        {"step", "epoch", "users", "loss", "title", MONITOR, "valid/uni19_likelihood/hr_1"}
    ] * 4
    assert {entry["users"] for entry in curve} == {5}

    def stop(so_far: list[dict[str, Any]]) -> None:
        if len(so_far) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "resume", on_check=stop)
    assert run(again, tmp_path / "resume") == curve
    for name, parameter in whole.trainable().items():
        assert torch.equal(parameter, again.trainable()[name]), name


def test_training_lowers_the_loss_of_titles_it_has_seen(backbone_folder: Path, settings: Any, tmp_path: Path) -> None:
    longer = SETTINGS.model_copy(update={"epochs": 12, "evaluations_per_epoch": 1, "lr_decay": 1.0, "lr": 0.1})
    model = build(backbone_folder, settings)
    curve = train(model, SEQUENCES, Titles.of(TITLES), validation(), longer, tmp_path)
    assert np.mean([entry["title"] for entry in curve[-3:]]) < curve[0]["title"]


def test_processes_parts_add_up_to_the_batch(backbone_folder: Path, settings: Any, monkeypatch: Any) -> None:
    model = build(backbone_folder, settings, rank=0)
    samples = Samples.of(SEQUENCES, Titles.of(TITLES), True, 4)
    rows = np.arange(5)

    def losses() -> torch.Tensor:
        return step_losses(model, samples, rows, np.random.default_rng(0))["title"].detach()

    together, parts = losses(), []
    for number in range(7):  # more processes than rows
        cut = slice(len(rows) * number // 7, len(rows) * (number + 1) // 7)
        monkeypatch.setattr("llmsrec.distributed.stretch", lambda count, cut=cut: cut)
        parts.append(losses())
    torch.testing.assert_close(sum(parts), together)


def test_no_sequence_with_two_events_is_one_clear_error(backbone_folder: Path, settings: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no training sequence has two events, so there is no next title to learn"):
        train(build(backbone_folder, settings), events([1, 1]), Titles.of(TITLES), validation(), SETTINGS, tmp_path)


class Seen:
    """Whether the prompts of each step held item embeddings, and which parameters had gradients."""

    def __init__(self, model: TitleModel) -> None:
        self.steps: list[bool] = []
        self.trained: list[set[str]] = []
        whole = model.loss

        def loss(*arguments: Any) -> torch.Tensor:
            self.steps.append(model.prompts.settings.item_embedding)
            self.trained.append({name.split(".")[0] for name in model.trainable()})
            return whole(*arguments)

        model.loss = loss  # type: ignore[method-assign]


def test_a_curriculum_goes_from_text_to_embeddings(backbone_folder: Path, settings: Any, tmp_path: Path) -> None:
    model = build(backbone_folder, settings)
    seen = Seen(model)
    longer = SETTINGS.model_copy(update={"epochs": 15, "evaluations_per_epoch": 1, "patience": 99})
    train(model, SEQUENCES, Titles.of(TITLES), validation(), longer, tmp_path, "curriculum")
    first, last = (float(np.mean(part)) for part in np.array_split(seen.steps, 2))
    assert not seen.steps[0] and first < 0.4 < 0.6 < last
    assert model.prompts.settings.item_embedding


def test_two_steps_train_adapters_on_text_and_then_the_maps(
    backbone_folder: Path, settings: Any, tmp_path: Path
) -> None:
    model = build(backbone_folder, settings)
    seen = Seen(model)
    before = {name: parameter.detach().clone() for name, parameter in model.trainable().items()}
    curve = train(model, SEQUENCES, Titles.of(TITLES), validation(), SETTINGS, tmp_path, "two_steps")
    half = len(seen.steps) // 2
    assert seen.steps == [False] * half + [True] * half
    assert seen.trained == [{"backbone"}] * half + [{"f_I", "f_U"}] * half
    assert [entry["step"] for entry in curve] == sorted({entry["step"] for entry in curve})
    assert [entry["epoch"] for entry in curve] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])
    assert set(before) == set(model.trainable()), "what stood still can be trained again"


def test_jointly_every_step_has_embeddings(backbone_folder: Path, settings: Any, tmp_path: Path) -> None:
    model = build(backbone_folder, settings)
    seen = Seen(model)
    train(model, SEQUENCES, Titles.of(TITLES), validation(), SETTINGS, tmp_path)
    assert seen.steps and all(seen.steps)
    assert seen.trained[0] == {"backbone", "f_I", "f_U"}
