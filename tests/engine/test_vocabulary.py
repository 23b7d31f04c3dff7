"""A backbone with its projection onto the vocabulary: loaded whole, or refused in a line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llmsrec.engine import backbone, lora
from llmsrec.engine.vocabulary import Vocabulary
from llmsrec.errors import DataError

SHAPE = {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip


def local(folder: Path, tokenizer: Any, tied: bool = False, without: str | None = None) -> Path:
    """A user's folder of a Llama, without the tensors whose names begin with `without`, and its reference."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    file = folder / "model/model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if not without or not name.startswith(without)}
    save_file(kept, file, metadata={"format": "pt"})
    backbone.describe("model", None, folder, folder / "backbone")
    return folder / "backbone"


def test_the_base_is_the_same_model_and_the_projection_gives_the_whole_models_logits(backbone_folder: Path) -> None:
    plain, loaded = backbone.load(backbone_folder), backbone.load(backbone_folder, vocabulary=True)
    assert plain.whole is None and loaded.whole is not None
    assert type(plain.model) is type(loaded.model)
    inputs = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = loaded.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        assert torch.equal(hidden, plain.model(inputs_embeds=inputs, use_cache=False).last_hidden_state)
        expected = LlamaForCausalLM.from_pretrained(backbone_folder)(inputs_embeds=inputs).logits[0]
        torch.testing.assert_close(Vocabulary(loaded.whole)(hidden[0]), expected)
    assert not any(parameter.requires_grad for parameter in loaded.whole.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_adapters_around_the_base_act_within_the_whole_model(tmp_path: Path, tiny_backbone: Any, tied: bool) -> None:
    loaded = backbone.load(local(tmp_path, tiny_backbone.tokenizer, tied), vocabulary=True)
    tuned = lora.add_lora(loaded, 2, seed=0)
    assert tuned.whole is not None
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        inputs = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
        logits = tuned.whole(inputs_embeds=inputs, use_cache=False).logits[0]
        hidden = tuned.model(inputs_embeds=inputs, use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(Vocabulary(tuned.whole)(hidden), logits)


def test_a_folder_of_the_base_alone_cannot_write_titles_but_can_be_read_out(tmp_path: Path, tiny_backbone: Any) -> None:
    folder = local(tmp_path, tiny_backbone.tokenizer, without="lm_head")
    assert backbone.load(folder).whole is None
    with pytest.raises(DataError, match=r"no projection onto its vocabulary \(lm_head.weight is not in its files\)"):
        backbone.load(folder, vocabulary=True)


def test_tensors_that_the_base_lacks_are_refused_as_ever(tmp_path: Path, tiny_backbone: Any) -> None:
    folder = local(tmp_path, tiny_backbone.tokenizer)
    file = tmp_path / "model/model.safetensors"
    torch.manual_seed(1)
    deeper = LlamaForCausalLM(LlamaConfig(**SHAPE | {"num_hidden_layers": 1}, tie_word_embeddings=False))
    save_file({name: value.contiguous() for name, value in deeper.state_dict().items()}, file, {"format": "pt"})
    (folder / "backbone.json").unlink()
    with pytest.raises(DataError, match=r"tensors that its configuration asks for are not in its files"):
        backbone._load({"kind": "local", "model": str(tmp_path / "model"), "sha256": backbone.digest(
            backbone.read_files(tmp_path / "model")), "limit": 8}, folder, "float32", "none", True)  # fmt: skip


def test_an_encoder_has_none(tmp_path: Path, tiny_backbone: Any) -> None:
    from tests.engine.families import FAMILIES

    torch.manual_seed(0)
    next(family for family in FAMILIES if family.name == "DistilBERT").make().save_pretrained(tmp_path / "model")
    tiny_backbone.tokenizer.save_pretrained(tmp_path / "model")
    backbone.describe("model", None, tmp_path, tmp_path / "backbone")
    with pytest.raises(DataError) as caught:
        backbone.load(tmp_path / "backbone", vocabulary=True)
    assert "\n" not in str(caught.value)
