"""TALLRec, LLaRA, CoLLM: what differs from LLM-SRec in what prompts hold and in what is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.data.sequences import Sequences
from llmsrec.engine import backbone, lora
from llmsrec.engine.embedded import train_tokenizer
from llmsrec.engine.prefix_store import Budget
from llmsrec.engine.readout import read_out
from llmsrec.errors import DataError
from llmsrec.files import write_json
from llmsrec.models.llm import retrieval
from llmsrec.models.llm.retrieval import LLMSRec, Parts
from llmsrec.prompts.retrieval import Prompts, PromptSettings
from llmsrec.training.batches import Samples
from llmsrec.training.retrieval import step_losses
from tests.prompts.plain_prompts import PlainPrompts
from tests.tiny_models import TITLES

TEXT_ALONE = Parts(item_embedding=False, cf_user=False)
LORA = {"dtype": "float32", "quantization": "none", "lora_rank": 2, "lora_alpha": 8, "lora_targets": "query_value"}


@pytest.fixture(scope="module")
def uniform(settings: Any) -> Any:
    """The paper's settings for all systems but LLM-SRec: Eq. 1 alone."""
    return settings.model_copy(update={"distill": False, "uniform": False})


def gradients(model: LLMSRec, sequences: Sequences, settings: Any) -> set[str]:
    """Names of what has a gradient after a step."""
    model.zero_grad()
    samples = Samples.of(sequences, len(TITLES), "all", settings.history)
    rows = np.arange(len(samples.users))
    sum(step_losses(model, samples, rows, settings, np.random.default_rng(0)).values()).backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("frozen", [True, False])
def test_prompts_of_text_alone_are_read_as_plain_prompts_are(
    frozen: bool, tiny_backbone: Any, backbone_folder: Path, teacher: Any, sequences: Sequences, uniform: Any
) -> None:
    """By the passes that a frozen model takes, kept item prefixes among them, and by those of one with adapters."""
    base = tiny_backbone if frozen else lora.tuned(backbone.load(backbone_folder), LORA, 0)
    model = LLMSRec(base, teacher, TITLES, uniform, 0, Budget(1 << 30, 0, None), TEXT_ALONE)
    assert (model.prefixes is not None) == frozen
    plain = PlainPrompts(base.tokenizer, TITLES, PromptSettings.of(uniform, item_embedding=False))
    no_item: Any = None  # is never asked for

    def alone(batch: Any, out: torch.Tensor) -> torch.Tensor:
        assert not (batch.slots > 0).any()
        return read_out(model.backbone, batch, no_item, out)

    items = [alone(plain.items(np.array([item])), model.item_out) for item in range(1, len(TITLES) + 1)]
    torch.testing.assert_close(
        model.hidden_items(torch.arange(1, len(TITLES) + 1)), torch.cat(items), rtol=1e-5, atol=1e-5
    )
    (a, a_times), (b, b_times) = (sequences.of(user) for user in (4, 5))
    histories = [(h[:n], t[:n]) for h, t in ((a, a_times), (b, b_times)) for n in range(1, len(h) + 1)]
    users = torch.cat([alone(plain.users([i], [t]), model.user_out) for i, t in histories])
    seen = torch.zeros(len(users), 8)
    together = model.hidden_positions([a, b], [a_times, b_times], [1, 1], seen)
    torch.testing.assert_close(together, users, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("system", "parts", "explicit", "absent"),
    [
        ("tallrec", TEXT_ALONE, False, {"f_I", "f_U", "f_cf_user"}),
        ("llara", Parts(cf_user=False), False, {"f_U", "f_cf_user"}),
        ("collm", Parts(cf_user=False), True, {"f_cf_user"}),
    ],
)
def test_what_a_system_trains_has_a_gradient_and_nothing_else_is_saved(
    system: str, parts: Parts, explicit: bool, absent: set[str], backbone_folder: Path, teacher: Any,
    sequences: Sequences, uniform: Any,
) -> None:  # fmt: skip
    settings = uniform.model_copy(update={"user_representation": explicit})
    base = lora.tuned(backbone.load(backbone_folder), LORA, 0)
    model = LLMSRec(base, teacher, TITLES, settings, 0, parts=parts)
    assert model.prefixes is None, "what comes before an embedding changes as adapters learn"
    heads = {name.split(".")[0] for name in model.trainable()}
    assert heads == {"backbone", "user_out", "item_out", "f_user", "f_item", "f_I", "f_U", "f_cf_user"} - absent
    assert gradients(model, sequences, settings) == set(model.trainable())


def test_with_a_user_vector_too_the_read_out_starts_as_a_word_that_the_embedded_backbone_has_met(
    tiny_backbone: Any, teacher: Any, uniform: Any
) -> None:
    """A whole tokenizer of its kind makes one token of each prompt's ending, and it meets that of Table 2 (b) alone."""
    tokenizer = train_tokenizer(TITLES, 2048, np.random.default_rng(0))
    usual = Prompts(tokenizer, TITLES, PromptSettings.of(uniform))
    explicit = Prompts(tokenizer, TITLES, replace(PromptSettings.of(uniform), user_representation=True))
    assert explicit.user_tail[-1] != usual.user_tail[-1], "else this test shows nothing"
    assert explicit.user_word == usual.user_word == usual.user_tail[-1]
    model = LLMSRec(tiny_backbone, teacher, TITLES, uniform.model_copy(update={"user_representation": True}), 0)
    word = tiny_backbone.model.get_input_embeddings().weight[model.prompts.user_word]
    torch.testing.assert_close(model.user_out.detach(), word, rtol=0, atol=0)


def test_text_alone_is_for_a_while(tiny_backbone: Any, teacher: Any, sequences: Sequences, uniform: Any) -> None:
    """Also for a model whose own prompts hold both kinds of vectors, and which keeps item prefixes."""
    settings = uniform.model_copy(update={"user_representation": True})
    model = LLMSRec(tiny_backbone, teacher, TITLES, settings, 0, Budget(1 << 30, 0, None), Parts(cf_user=False))
    text = LLMSRec(tiny_backbone, teacher, TITLES, uniform, 0, parts=TEXT_ALONE)
    ids, (items, times) = torch.tensor([2, 7]), sequences.of(3)
    whole = model.hidden_items(ids)
    with model.text_alone():
        torch.testing.assert_close(model.hidden_items(ids), text.hidden_items(ids), rtol=1e-5, atol=1e-5)
        actual = model.hidden_users([items], [times], torch.zeros(1, 8))
        torch.testing.assert_close(actual, text.hidden_users([items], [times]), rtol=1e-5, atol=1e-5)
        assert not {"f_I.0.weight", "f_U.0.weight"} & gradients(model, sequences, settings)
    torch.testing.assert_close(model.hidden_items(ids), whole, rtol=0, atol=0)
    assert {"f_I.0.weight", "f_U.0.weight"} <= gradients(model, sequences, settings)


def built(tiny: Any, **changes: Any) -> tuple[LLMSRec, dict[str, Any], tuple[Path, Path, Path]]:
    folder = tiny.folder
    paths = folder / "models/backbone", folder / "models/sasrec", folder / "data/filtered/items.parquet"
    of = {**tiny.config["model"], "distill": False, "uniform": False, **changes}
    config = {"model": of, "backbone": LORA, "seed": 0, "parts": vars(TEXT_ALONE)}
    return retrieval.build(*paths, of, LORA, 0, parts=TEXT_ALONE), config, paths


def test_adapters_are_saved_and_loaded_exactly(tiny: Any, tmp_path: Path) -> None:
    model, config, paths = built(tiny)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.normal_(0, 0.2, generator=generator)
    model.save(tmp_path, config)
    again = retrieval.load(tmp_path, *paths)
    assert again.trainable().keys() == model.trainable().keys()
    assert {name.split(".")[-3] for name in again.trainable() if "lora_" in name} == {"lora_A", "lora_B"}
    assert {name.split(".")[-4] for name in again.trainable() if "lora_" in name} == {"q_proj", "v_proj"}
    torch.testing.assert_close(again.item_vectors(), model.item_vectors(), rtol=0, atol=0)
    scaled = {**config, "backbone": {**LORA, "lora_alpha": 2}}
    write_json(tmp_path / "config.json", scaled)
    assert not torch.allclose(retrieval.load(tmp_path, *paths).item_vectors(), model.item_vectors())


def test_an_adapter_of_zeros_is_an_error_and_no_file(tiny: Any, tmp_path: Path) -> None:
    model, config, _ = built(tiny)
    with pytest.raises(DataError, match="adapters of the language model are zero after training"):
        model.save(tmp_path / "model", config)
    assert not (tmp_path / "model").exists()
