"""Recommending by title: Eq. 5, likelihoods and written texts equal plain passes; what is trained is saved exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmsrec.data.choices import COUNT, Choices
from llmsrec.data.sequences import Sequences
from llmsrec.engine import backbone as backbones
from llmsrec.engine import lora
from llmsrec.engine.readout import embed
from llmsrec.errors import DataError
from llmsrec.models.cf.sasrec import SASRec
from llmsrec.models.llm.titles import TitleModel
from llmsrec.prompts.retrieval import DAY_MS, PromptSettings

# A title that is a prefix of another's, an empty one, one of 800 characters, two that are equal once they are cut.
TITLES = ["Soap", "Soap bar", "", "Grün " * 160, "Grün " * 170, *(f"{word} {k}" for k in range(7) for word in "abc")]
SYSTEMS = {  # item embedding, user representation, rank of the adapters
    "tallrec": (False, False, 2),
    "llara": (True, False, 2),
    "collm": (True, True, 2),
    "a_llmrec": (True, True, 0),
}


def build(folder: Path, settings: Any, system: str) -> TitleModel:
    embedded, explicit, rank = SYSTEMS[system]
    teacher = SASRec(items=len(TITLES), dim=8, blocks=1, heads=1, max_length=6, dropout=0.5)
    teacher.initialise(torch.Generator().manual_seed(1))
    backbone = backbones.load(folder, vocabulary=True)
    if rank:
        backbone = lora.add_lora(backbone, rank, seed=0)
        with torch.no_grad():
            for name, parameter in backbone.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    holds = replace(PromptSettings.of(settings, embedded), user_representation=explicit, max_tokens=1_000)
    return TitleModel(backbone, teacher, TITLES, holds, seed=0).eval()


@pytest.fixture(scope="module")
def models(backbone_folder: Path, settings: Any) -> dict[str, TitleModel]:
    return {system: build(backbone_folder, settings, system) for system in SYSTEMS}


@pytest.fixture(params=SYSTEMS)
def model(request: pytest.FixtureRequest, models: dict[str, TitleModel]) -> TitleModel:
    return models[request.param]


def users(count: int = 5) -> tuple[Sequences, Choices]:
    """Histories of unlike length, and 20 titles for each."""
    rng = np.random.default_rng(0)
    lengths = np.arange(1, count + 1)
    offsets = np.array([0, 0, *lengths.cumsum()])
    items = rng.integers(1, len(TITLES) + 1, offsets[-1]).astype(np.int32)
    items[-1], times = 4, DAY_MS * np.sort(rng.integers(10_000, 19_000, offsets[-1]))
    shown = np.stack([rng.permutation(len(TITLES))[:COUNT] + 1 for _ in lengths])
    return Sequences(offsets, items, times), Choices(shown.astype(np.int32), rng.integers(0, COUNT, count))


def slow(model: TitleModel, histories: Sequences, user: int, candidates: np.ndarray, item: int) -> torch.Tensor:
    """ln p of each token of a title and of its end: prompt and title as one text through the whole model, alone."""
    items, times = histories.of(user)
    batch = model.prompts.ask([items], [times], candidates[None])
    seen = model.teacher.user_vectors(histories)[[user]]
    given = None if model.f_U is None else model.f_U(seen)
    inputs, _ = embed(model.backbone, batch, model._item_inputs, torch.zeros(16), given)
    title = model.tokenizer(f" {TITLES[item - 1] or 'Untitled item'}", add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([*title[: model.prompts.longest - 1], model.tokenizer.eos_token_id])
    text = torch.cat([inputs[0], model.backbone.get_input_embeddings()(tokens[:-1])])  # type: ignore[operator]
    logits = model.vocabulary._whole(inputs_embeds=text[None], use_cache=False).logits[0]
    following = logits[len(inputs[0]) - 1 :].log_softmax(dim=1)
    return following.gather(1, tokens[:, None])[:, 0]


def test_the_loss_is_eq_5_on_the_titles_tokens_and_nothing_else(model: TitleModel) -> None:
    histories, choices = users()
    items, times = zip(*(histories.of(user) for user in range(1, 6)), strict=True)
    seen = model.teacher.user_vectors(histories)[1:]
    loss = model.loss((list(items), list(times)), seen, choices)
    expected = [
        slow(model, histories, user, shown, shown[place])
        for user, shown, place in zip(range(1, 6), choices.items, choices.places, strict=True)
    ]
    torch.testing.assert_close(loss, -torch.cat(expected).mean(), rtol=1e-4, atol=1e-5)
    model.zero_grad()
    loss.backward()
    for name, parameter in model.trainable().items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert {name.split(".")[0] for name in model.trainable()} <= {"backbone", "f_I", "f_U"}
    model.zero_grad()


@torch.no_grad()
def test_what_is_read_equals_plain_passes_for_each_title(model: TitleModel) -> None:
    histories, choices = users()
    readings = model.read(histories, choices)
    for user, shown in zip(range(1, 6), choices.items, strict=True):
        every = [slow(model, histories, user, shown, item) for item in shown]
        np.testing.assert_allclose(readings.summed[user - 1], [float(of.sum()) for of in every], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(readings.mean[user - 1], [float(of.mean()) for of in every], rtol=1e-4, atol=1e-4)
    assert len(readings.texts) == 5 and model.read(histories, choices, write=False).texts == []


def test_titles_that_are_equal_once_they_are_cut_tie(models: dict[str, TitleModel]) -> None:
    histories, choices = users(1)
    items = choices.items.copy()
    items[0, [3, 11]] = 4, 5
    rest = [item for item in range(1, len(TITLES) + 1) if item not in (4, 5)]
    items[0, [k for k in range(COUNT) if k not in (3, 11)]] = rest[: COUNT - 2]
    readings = models["llara"].read(histories, Choices(items, choices.places), write=False)
    assert readings.summed[0, 3] == readings.summed[0, 11]
    assert models["llara"].shown[4] == models["llara"].shown[5] != models["llara"].shown[1]


def test_results_do_not_depend_on_the_batches(models: dict[str, TitleModel], monkeypatch: pytest.MonkeyPatch) -> None:
    histories, choices = users()
    together = models["collm"].read(histories, choices)
    monkeypatch.setattr("llmsrec.models.llm.retrieval.BATCH_TOKENS", 1)
    alone = models["collm"].read(histories, choices)
    np.testing.assert_allclose(together.summed, alone.summed, rtol=1e-5, atol=1e-4)
    assert together.texts == alone.texts


def test_titles_are_compared_as_they_are_shown(models: dict[str, TitleModel]) -> None:
    shown = models["llara"].shown
    assert shown[:4] == ["", "soap", "soap bar", "untitled item"]
    assert 0 < len(shown[4]) < 800


@pytest.mark.parametrize("system", ["collm", "a_llmrec"])
def test_what_was_trained_is_saved_and_filled_exactly(
    system: str, backbone_folder: Path, settings: Any, models: dict[str, TitleModel], tmp_path: Path
) -> None:
    histories, choices = users()
    models[system].save(tmp_path / "saved", {"any": 1})
    again = build(backbone_folder, settings, system)
    with torch.no_grad():
        for parameter in again.trainable().values():
            parameter.zero_()
    again.fill(tmp_path / "saved")
    readings, expected = again.read(histories, choices), models[system].read(histories, choices)
    assert np.array_equal(readings.summed, expected.summed) and readings.texts == expected.texts
    path = tmp_path / "saved/model.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[1:]), path)
    with pytest.raises(DataError, match=r"does not fit this system's settings: .*; train it again"):
        again.fill(tmp_path / "saved")
    path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"model.safetensors cannot be read"):
        again.fill(tmp_path / "saved")


def test_adapters_that_are_all_zero_after_training_are_an_error_and_no_file(
    backbone_folder: Path, settings: Any, tmp_path: Path
) -> None:
    model = build(backbone_folder, settings, "tallrec")
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.zero_()
    with pytest.raises(DataError, match=r"adapters of the language model are zero after training"):
        model.save(tmp_path / "saved", {})
    assert not (tmp_path / "saved/model.safetensors").exists()


def test_a_backbone_that_writes_no_text_is_one_clear_error(tiny_backbone: Any, teacher: Any, settings: Any) -> None:
    with pytest.raises(DataError, match=r"LlamaModel writes no text .* or the form `retrieval`"):
        TitleModel(tiny_backbone, teacher, TITLES[:9], PromptSettings.of(settings), seed=0)


@torch.no_grad()
def test_dropout_of_adapters_and_teacher_stays_off_while_training(models: dict[str, TitleModel]) -> None:
    model, (histories, choices) = models["collm"], users()
    model.train()
    items, times = zip(*(histories.of(user) for user in range(1, 6)), strict=True)
    seen = model.teacher.user_vectors(histories)[1:]
    losses = {float(model.loss((list(items), list(times)), seen, choices)) for _ in range(3)}
    assert len(losses) == 1 and not model.backbone.training and not model.teacher.training
    model.eval()


@torch.no_grad()
def test_projections_start_at_the_size_of_words(models: dict[str, TitleModel]) -> None:
    model = models["collm"]
    words = model.backbone.get_input_embeddings().weight.norm(dim=1).mean()  # type: ignore[operator]
    assert model.f_I is not None and model.f_U is not None
    for projection in (model.f_I, model.f_U):
        sizes = projection(model.item_codes[1:]).norm(dim=1)
        torch.testing.assert_close(sizes.mean(), words, rtol=1e-4, atol=1e-5)
        assert sizes.std() < words
