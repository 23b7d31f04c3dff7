from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from llmsrec.engine.backbone import Backbone, is_causal
from llmsrec.engine.embedded import train_tokenizer
from llmsrec.engine.encoder import Encoder, load_encoder
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.errors import DataError, ParamsError
from llmsrec.files import write_json

TEXTS = [
    "Red Soap",
    "Hair Mask for Men, Pack of 6",
    "",
    "<|begin_of_text|> is no beginning",
    "Red Soap",
    "Grünes Zelt " * 20,
    "x",
]
SHAPE: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 300, np.random.default_rng(0))


@pytest.fixture(scope="module", params=["llama", "gpt2", "bert"])
def encoder(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> Backbone:
    torch.manual_seed(0)
    size, spread = len(tokenizer), {"initializer_range": 0.3}
    model: Any = {
        "llama": lambda: LlamaModel(LlamaConfig(vocab_size=size, **SHAPE, **spread)),
        "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, **spread)),
        "bert": lambda: BertModel(BertConfig(vocab_size=size, **SHAPE, **spread), add_pooling_layer=False),
    }[request.param]()
    model.eval()
    return Backbone(model, tokenizer, is_causal(model), 64)


@torch.no_grad()
def alone(encoder: Backbone, text: str, longest: int) -> Tensor:
    """One text, token by token of a text in which `<|` is never a special token's beginning."""
    parts = text.replace("<|", "<\0|").split("\0")
    ids = [number for part in parts for number in encoder.tokenizer(part, add_special_tokens=False)["input_ids"]]
    ids = ids[: min(longest, 64 - 1)]  # 64 positions, one of them the beginning's
    if not ids:
        return torch.zeros(16)
    begin = encoder.tokenizer.bos_token_id
    states = encoder.model(input_ids=torch.tensor([[begin, *ids]])).last_hidden_state[0]
    return states[1:].mean(dim=0) if encoder.causal else states.mean(dim=0)


@pytest.mark.parametrize("longest", [128, 7])
def test_the_vectors_are_those_of_one_text_at_a_time(encoder, longest):
    vectors = text_vectors(encoder, TEXTS, longest)
    expected = torch.stack([torch.zeros(16), *(alone(encoder, text, longest) for text in TEXTS)])
    assert vectors.dtype == torch.float32 and vectors[1].std() > 0.05
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)


def test_a_text_that_spells_a_special_token_is_text(encoder):
    vectors = text_vectors(encoder, ["<|begin_of_text|>", "", "soap"])
    assert vectors[1].abs().sum() > 0 and not torch.allclose(vectors[1], vectors[3])


def test_the_vectors_do_not_depend_on_what_shares_a_batch(encoder, monkeypatch):
    together = text_vectors(encoder, TEXTS)
    monkeypatch.setattr("llmsrec.engine.text_vectors.BATCH_TOKENS", 1)
    torch.testing.assert_close(text_vectors(encoder, TEXTS), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[1], together[5])


def test_nothing_is_trained_through_them_and_the_model_stays_as_it_was(encoder):
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    assert not text_vectors(encoder, TEXTS).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


def test_no_text_is_no_item(encoder):
    assert text_vectors(encoder, []).shape == (1, 16)


@pytest.fixture
def folders(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A backbone as the stages leave it, and a user's own encoder of another width."""
    torch.manual_seed(0)
    LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    write_json(tmp_path / "backbone/backbone.json", {"kind": "embedded", "model": "embedded", "revision": None})
    config = BertConfig(vocab_size=len(tokenizer), **SHAPE | {"hidden_size": 8})
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    return tmp_path


def test_the_encoder_is_the_backbone_or_any_other_folder(folders):
    places = folders, folders / "encoder", folders / "backbone"
    assert load_encoder(Encoder(model=None, revision=None), *places).width == 16 and not (folders / "encoder").exists()
    own = load_encoder(Encoder(model="own", revision=None), *places)
    assert own.width == 8 and not own.causal and text_vectors(own, TEXTS).shape == (8, 8)


def test_an_encoder_that_is_not_there_names_the_key(folders):
    places = folders, folders / "encoder", folders / "backbone"
    with pytest.raises(DataError, match=r"`encoder.model` is './nowhere': there is no folder"):
        load_encoder(Encoder(model="./nowhere", revision=None), *places)
    with pytest.raises(ParamsError, match=r"set `encoder.revision` to the 40 hex digits"):
        load_encoder(Encoder(model="owner/name", revision=None), *places)
