"""LLaRA's curriculum, CoLLM's two steps and heads first do what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.models.llm import retrieval
from llmsrec.models.llm.retrieval import LLMSRec, Parts
from llmsrec.params import Model, Train
from llmsrec.training.loop import only
from llmsrec.training.retrieval import Validation, step_losses, train
from llmsrec.training.schedules import ALONE, HEADS, MAPS, SCHEDULES, heads_first

LORA = {"dtype": "float32", "quantization": "none", "lora_rank": 2, "lora_alpha": 8, "lora_targets": "query_value"}
TRAIN = Train(
    start="scratch", targets="last", batch_size=8, lr=0.01, lr_decay=0.9, beta2=0.98, weight_decay=0.01, input_lr=0.5,
    epochs=2, evaluations_per_epoch=1, patience=10, monitor="uni99/ndcg_10", seed=0,
)  # fmt: skip


class Seen:
    """Which prompts the model's steps held: whether they had item embeddings, user vectors, and were trained on."""

    def __init__(self, model: LLMSRec) -> None:
        self.steps: list[bool] = []
        whole = model.hidden_positions

        def hidden_positions(*arguments: Any) -> torch.Tensor:
            if torch.is_grad_enabled():
                self.steps.append(model.prompts.settings.item_embedding)
            return whole(*arguments)

        model.hidden_positions = hidden_positions  # type: ignore[method-assign]


@pytest.fixture
def model(tiny: Any) -> LLMSRec:
    paths = (tiny.folder / place for place in ("models/backbone", "models/sasrec", "data/filtered/items.parquet"))
    return retrieval.build(*paths, settings(tiny).model_dump(), LORA, 0, parts=Parts(cf_user=False))


def settings(tiny: Any) -> Model:
    of = {**tiny.config["model"], "distill": False, "uniform": False, "user_representation": True}
    return Model.model_validate(of)


def validation(tiny: Any) -> Validation:
    users = np.arange(1, 31)
    last = tiny.sequences.offsets[users + 1] - 1
    negatives = np.random.default_rng(0).integers(1, 31, (30, 9))
    return Validation(tiny.sequences.drop_last(1), users, tiny.sequences.items[last], negatives)


def run(schedule: str, model: LLMSRec, tiny: Any, resume: Path) -> list[dict[str, Any]]:
    fit = SCHEDULES[schedule]
    return fit(model, tiny.sequences.drop_last(1), validation(tiny), settings(tiny), TRAIN, resume)


def values(model: LLMSRec) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.trainable().items()}


def test_jointly_every_step_has_embeddings(model: LLMSRec, tiny: Any, tmp_path: Path) -> None:
    seen = Seen(model)
    run("joint", model, tiny, tmp_path)
    assert len(seen.steps) == 10
    assert all(seen.steps)


def test_a_curriculum_goes_from_text_to_embeddings(model: LLMSRec, tiny: Any, tmp_path: Path) -> None:
    seen = Seen(model)
    longer = TRAIN.model_copy(update={"epochs": 12})
    SCHEDULES["curriculum"](model, tiny.sequences.drop_last(1), validation(tiny), settings(tiny), longer, tmp_path)
    thirds = [float(np.mean(part)) for part in np.array_split(seen.steps, 3)]
    assert len(seen.steps) == 60
    assert not seen.steps[0], "nothing lies before it"
    assert thirds[0] < 0.4 < 0.6 < thirds[2]
    assert thirds[0] < thirds[1] < thirds[2]


def test_a_curriculum_goes_on_after_a_kill_where_it_was(
    model: LLMSRec, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, first = values(model), run("curriculum", model, tiny, tmp_path / "whole")
    whole = values(model)
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            parameter.copy_(fresh[name])

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("llmsrec.training.loop.Progress.say", killed)  # right behind the first checkpoint
        run("curriculum", model, tiny, tmp_path / "again")
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            parameter.copy_(fresh[name])
    assert run("curriculum", model, tiny, tmp_path / "again") == first
    for name, parameter in model.trainable().items():
        torch.testing.assert_close(parameter, whole[name], rtol=0, atol=0)


def test_two_steps_train_text_first_and_then_the_maps_alone(model: LLMSRec, tiny: Any, tmp_path: Path) -> None:
    seen, before, names = Seen(model), values(model), set(model.trainable())
    between: dict[str, torch.Tensor] = {}
    whole = model.hidden_positions

    def hidden_positions(*arguments: Any) -> torch.Tensor:
        if model.prompts.settings.item_embedding and not between:
            between.update({name: p.detach().clone() for name, p in model.named_parameters() if name in names})
        return whole(*arguments)

    model.hidden_positions = hidden_positions  # type: ignore[method-assign]
    curve = run("two_steps", model, tiny, tmp_path)
    assert seen.steps == [False] * 10 + [True] * 10
    assert [entry["step"] for entry in curve] == [5, 10, 15, 20]
    assert [entry["epoch"] for entry in curve] == [1.0, 2.0, 3.0, 4.0]
    assert set(model.trainable()) == names, "all of it is saved"
    after = values(model)
    for name in names:
        first, second = not torch.equal(before[name], between[name]), not torch.equal(between[name], after[name])
        assert (first, second) == ((False, True) if name.startswith(MAPS) else (True, False)), name


def whole(tiny: Any) -> LLMSRec:
    paths = (tiny.folder / place for place in ("models/backbone", "models/sasrec", "data/filtered/items.parquet"))
    return retrieval.build(*paths, tiny.config["model"], tiny.config["backbone"], 0)


def of_all(tiny: Any) -> Model:
    return Model.model_validate({**tiny.config["model"], "negatives": "all"})


def first_heads(model: LLMSRec, tiny: Any, resume: Path) -> list[dict[str, Any]]:
    return heads_first(model, tiny.sequences.drop_last(1), validation(tiny), of_all(tiny), TRAIN, resume)


def test_heads_first_is_a_training_without_inputs_and_then_one_with_them(tiny: Any, tmp_path: Path) -> None:
    """The slow twin asks the language model anew in every step."""
    model, twin = whole(tiny), whole(tiny)
    actual = first_heads(model, tiny, tmp_path / "heads")
    twin.start_inputs_at_the_size_of_words()
    given = twin, tiny.sequences.drop_last(1), validation(tiny), of_all(tiny)
    with only(twin.trainable(), lambda name: name.startswith(HEADS)):
        train(*given, TRAIN.model_copy(update=ALONE), tmp_path / "twin/heads")
    at_first = validation(tiny).scores(twin)
    expected = train(*given, TRAIN, tmp_path / "twin", warm=True)
    assert actual[0] == pytest.approx({"step": 0, "epoch": 0.0, "users": 30} | at_first, rel=1e-3, abs=1e-3)
    assert len(actual) == 3 and len(expected) == 2
    for entry, wanted in zip(actual[1:], expected, strict=True):
        assert entry == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    users = np.arange(1, 31)
    pairs = [(one.user_vectors(tiny.sequences, users), one.item_vectors()[1:]) for one in (model, twin)]
    for vectors, wanted in zip(*pairs, strict=True):
        # what all items have in common says nothing of an order, and its gradient is rounding
        torch.testing.assert_close(vectors - vectors.mean(dim=0), wanted - wanted.mean(dim=0), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("within", ["heads", "all"])
def test_heads_first_goes_on_after_a_kill_where_it_was(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    model, resume = whole(tiny), tmp_path / "again"
    curve = first_heads(model, tiny, tmp_path / "whole")
    assert not list(tmp_path.rglob("outputs.*")), "they are as large as the data"

    def killed(*_: Any) -> None:
        if within == "heads" or (resume / "state.safetensors").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("llmsrec.training.loop.Progress.say", killed)  # right behind a checkpoint
        first_heads(whole(tiny), tiny, resume)
    assert (resume / "heads/state.safetensors").exists()
    assert (resume / "heads/trained.safetensors").exists() == (within == "all")
    again = whole(tiny)
    assert first_heads(again, tiny, resume) == curve
    for name, parameter in again.trainable().items():
        torch.testing.assert_close(parameter, model.trainable()[name], rtol=0, atol=0)


def test_the_table_of_all_items_is_that_of_the_last_check(tiny: Any, tmp_path: Path) -> None:
    model, seen, checked = whole(tiny), list[torch.Tensor](), [whole(tiny).hidden_catalogue()]

    def losses_at(model: Any, samples: Any, rows: Any, of: Any, rng: Any, table: torch.Tensor) -> Any:
        seen.append(table.clone())
        return step_losses(model, samples, rows, of, rng, table)

    def on_check(curve: Any) -> None:
        checked.append(model.hidden_catalogue())

    given = model, tiny.sequences.drop_last(1), validation(tiny), of_all(tiny), TRAIN, tmp_path
    curve = train(*given, on_check, losses_at)
    assert len(checked) == 3 and len(seen) == curve[-1]["step"] == 10
    for step, table in enumerate(seen):
        torch.testing.assert_close(table, checked[step // 5], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(checked[0], checked[1], rtol=1e-3)
