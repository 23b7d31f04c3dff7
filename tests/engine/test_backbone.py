import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from llmsrec.engine import backbone, lora, wrapped_layers
from llmsrec.engine.decoder import Decoder
from llmsrec.errors import DataError, ParamsError
from llmsrec.files import read_json
from tests.engine.families import FAMILIES

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def local(backbone_folder: Path, tmp_path: Path) -> Path:
    """A user's own model folder."""
    folder = tmp_path / "my-model"
    shutil.copytree(backbone_folder, folder)
    (folder / "backbone.json").unlink()
    return folder


def test_an_embedded_backbone_is_frozen_and_causal(tiny_backbone: Any) -> None:
    assert tiny_backbone.causal
    assert tiny_backbone.width == 16
    assert tiny_backbone.limit == 2048
    assert not tiny_backbone.model.training
    assert not any(parameter.requires_grad for parameter in tiny_backbone.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_is_explicit(backbone_folder: Path, dtype: str) -> None:
    model = backbone.load(backbone_folder, dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_a_local_folder_is_pinned_by_its_content(local: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    backbone.describe("my-model", None, tmp_path, out)
    assert sorted(path.name for path in out.iterdir()) == ["backbone.json"], "weights stay where they are"
    assert backbone.load(out).width == 16
    config = read_json(local / "config.json")
    (local / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(DataError, match="has changed since"):
        backbone.load(out)


def test_the_tokenizer_alone_is_that_of_the_whole_and_of_files_that_have_not_changed(
    local: Path, tmp_path: Path, backbone_folder: Path
) -> None:
    out, text = tmp_path / "out", "Hair Mask <|pad|> für Men"
    backbone.describe("my-model", None, tmp_path, out)
    for folder in (backbone_folder, out):
        assert backbone.load_tokenizer(folder)(text) == backbone.load(folder).tokenizer(text)
    with (local / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="has changed since"):
        backbone.load_tokenizer(out)


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/no/where/at/all"])
def test_neither_a_folder_nor_a_hub_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=re.escape(repr(name))):
        backbone.describe(name, None, tmp_path, tmp_path / "out")


def test_a_hub_id_needs_a_commit(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"backbone\.revision"):
        backbone.describe("owner/name", None, tmp_path, tmp_path / "out")


def test_quantization_needs_bitsandbytes(backbone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)  # as in the serving images
    with pytest.raises(ParamsError, match="'4bit', which needs bitsandbytes; `pip install bitsandbytes`"):
        backbone.load(backbone_folder, quantization="4bit")


def test_lora_adds_trainable_adapters_and_starts_as_the_same_model(backbone_folder: Path) -> None:
    plain = backbone.load(backbone_folder)
    inputs = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    before = plain.model(inputs_embeds=inputs).last_hidden_state
    tuned = lora.add_lora(plain, 2, seed=0)
    torch.testing.assert_close(tuned.model(inputs_embeds=inputs).last_hidden_state, before)
    trainable = [name for name, parameter in tuned.model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        *(("Llama", {"q_proj", "v_proj"}), ("GPT-2", {"c_attn"}), ("Phi 3 (no window)", {"qkv_proj"})),
        *(("BLOOM", {"query_key_value"}), ("DeepSeek V2", {"q_b_proj", "kv_b_proj"}), ("BERT", {"query", "value"})),
        *(("DistilBERT", {"q_lin", "v_lin"}), ("MPNet", {"q", "v"}), ("ModernBERT (window of 64)", {"Wqkv"})),
    ],
)
def test_adapters_on_queries_and_values_go_by_the_names_of_the_family(
    family: str, names: set[str], tiny_backbone: Any
) -> None:
    model = next(each for each in FAMILIES if each.name == family).make().requires_grad_(False)
    tuned = lora.add_lora(replace(tiny_backbone, model=model), 2, 0, 4, "query_value")
    adapters = [name.split(".") for name, parameter in tuned.model.named_parameters() if parameter.requires_grad]
    assert {parts[parts.index("lora_A") - 1] for parts in adapters if "lora_A" in parts} == names


@pytest.mark.parametrize("family", ["Mamba", "FNet", "RWKV"])
def test_a_model_without_queries_and_values_is_told_to_take_all_layers(family: str, tiny_backbone: Any) -> None:
    model = next(each for each in FAMILIES if each.name == family).make()
    with pytest.raises(ParamsError, match=r"`lora\.targets` is query_value, but .* set it to all_linear"):
        lora.add_lora(replace(tiny_backbone, model=model), 2, 0, 4, "query_value")


SHAPE = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}


def whole(model: Any, inputs: Tensor) -> Tensor:
    return model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1]


def layer_by_layer(model: Any, inputs: Tensor) -> Tensor:
    decoder = Decoder.of(model)
    assert decoder is not None
    return decoder(inputs, torch.full((len(inputs), 1), inputs.shape[1] - 1))[:, 0]


def backward(model: Any, run: Any) -> tuple[Tensor, Tensor, int]:
    """The vectors, the inputs' gradient, and the bytes kept in between."""
    inputs = torch.randn(3, 20, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        vectors = run(model, inputs)
    weights = sum(kept.get(parameter.untyped_storage().data_ptr(), 0) for parameter in model.parameters())
    return vectors, torch.autograd.grad(vectors.square().sum(), inputs)[0], sum(kept.values()) - weights


@pytest.mark.parametrize(
    ("kind", "config", "run"),
    [(LlamaModel, LlamaConfig, whole), (LlamaModel, LlamaConfig, layer_by_layer), (BertModel, BertConfig, whole)],
    ids=["Llama, whole", "Llama, layer by layer", "Bert"],
)
def test_layers_that_are_computed_again_give_the_same_from_less_memory(kind: Any, config: Any, run: Any) -> None:
    torch.manual_seed(0)
    model = kind(config(**SHAPE)).requires_grad_(False).eval()
    vectors, gradient, kept = backward(model, run)
    wrapped_layers.checkpoint_layers(model)
    again, gradient_again, kept_again = backward(model, run)
    assert torch.equal(vectors, again) and torch.equal(gradient, gradient_again)
    assert kept_again < kept / 3


@pytest.mark.parametrize(
    ("kind", "config"),
    [(LlamaModel, LlamaConfig(**SHAPE)), (GPT2Model, GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2))],
    ids=["Llama names its cache", "GPT-2 passes it by position"],
)
def test_a_pass_that_goes_on_from_kept_keys_and_values_is_left_as_it_is(kind: Any, config: Any) -> None:
    actual = []
    for again in (False, True):
        torch.manual_seed(0)
        model = kind(config).requires_grad_(False).eval()
        if again:
            wrapped_layers.checkpoint_layers(model)
        cache = DynamicCache(config=model.config)
        inputs = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.no_grad():
            model(inputs_embeds=inputs[:, :6], past_key_values=cache)
        vectors = model(inputs_embeds=inputs[:, 6:], past_key_values=cache).last_hidden_state
        actual.append((vectors, torch.autograd.grad(vectors.square().sum(), inputs)[0]))
    (vectors, gradient), (again_vectors, again_gradient) = actual
    assert torch.equal(vectors, again_vectors) and torch.equal(gradient, again_gradient)


def test_a_model_whose_layers_cannot_be_computed_again_says_so() -> None:
    with pytest.raises(ParamsError, match="Linear has no layers that can be computed again"):
        wrapped_layers.checkpoint_layers(nn.Linear(2, 2))
