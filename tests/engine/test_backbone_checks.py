"""What the backbone stage sees of a model before anything is trained on it. Real classes, small and random."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmsrec.engine import backbone, embedded
from llmsrec.engine.backbone_checks import first_line, longest_input, unused
from llmsrec.errors import DataError
from llmsrec.files import read_json

TOKENIZER = embedded.train_tokenizer(["Red Soap", "Blue Tent"], 320, np.random.default_rng(0))
SHAPE = {
    "vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
WORDS = {"vocab_size": len(TOKENIZER)}
OPT = {**WORDS, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
ALBERT = {**SHAPE, "embedding_size": 16}
T5 = {**WORDS, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
BART = {
    **WORDS, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip
NEO = {**WORDS, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
XGLM = {**WORDS, "d_model": 32, "ffn_dim": 48, "num_layers": 1, "attention_heads": 2, "max_position_embeddings": 64}
VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
GPT_2 = {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "my-model"


def saved(folder: Path, model: Any, **config: Any) -> Path:
    """A model folder, with some keys of its configuration changed afterwards."""
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps({**read_json(path), **config}))
    return folder


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**SHAPE, **changes}))


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Change the tensors of the weights."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path, metadata={"format": "pt"})


def described(folder: Path) -> Path:
    out = folder.parent / "out"
    backbone.describe(str(folder), None, folder.parent, out)
    return out


def refused(folder: Path, capfd: pytest.CaptureFixture[str] | None = None) -> str:
    """The one line with which the backbone stage refuses a folder, and with which loading does as well."""
    if capfd:
        capfd.readouterr()  # what saving the model said
    with pytest.raises(DataError) as caught:
        described(folder)
    assert not (folder.parent / "out/backbone.json").exists()
    with pytest.raises(DataError) as again:  # as if it had become so after the stage
        backbone.load(as_embedded(folder))
    place = str(folder.parent / "embedded")
    assert str(again.value).replace(place, str(folder)) == str(caught.value)
    assert "\n" not in str(caught.value)
    if capfd:
        assert not capfd.readouterr().err, "the line is all that is said"
    return str(caught.value)


def as_embedded(folder: Path) -> Path:
    """The same files as they lie in a bundle."""
    target = folder.parent / "embedded"
    shutil.copytree(folder, target)
    (target / "backbone.json").write_text(json.dumps({"kind": "embedded", "model": "x", "revision": None}))
    return target


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_weights_under_longer_names_name_the_prefix(
    folder: Path, prefix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(folder, llama())
    edit(folder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    line = refused(folder, capfd)
    assert "20 of the 20 tensors that its configuration asks for are not in its files (embed_tokens.weight, " in line
    assert f"with `{prefix}` before them" in line


def test_weights_of_fewer_layers_than_the_configuration_has(folder: Path) -> None:
    line = refused(saved(folder, llama(), num_hidden_layers=4))
    assert "18 of the 38 tensors" in line and "layers.2." in line
    assert "with the config.json that belongs to its weights" in line


def test_weights_of_more_layers_than_the_configuration_has(folder: Path) -> None:
    line = refused(saved(folder, llama(num_hidden_layers=4), num_hidden_layers=2))
    assert "its files hold 18 tensors of layers that config.json does not have (model.layers.2." in line


def test_weights_of_another_shape(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = refused(saved(folder, llama(), hidden_size=16, head_dim=8), capfd)
    assert "20 of the 20 tensors" in line and "is [320, 32], not [320, 16]" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return tensors

    saved(folder, llama())
    edit(folder, spoil)
    line = refused(folder)
    assert "layers.1.mlp.up_proj.weight is not finite in float32, and its file holds it so" in line
    assert "Fetch or convert the model again" in line and "dtype`" not in line


def test_weights_that_a_smaller_dtype_cannot_hold_are_named(folder: Path) -> None:
    def enlarge(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["model.embed_tokens.weight"][300] *= 1e8
        return tensors

    saved(folder, llama())
    edit(folder, enlarge)
    out = described(folder)
    backbone.load(out, "bfloat16")
    with pytest.raises(DataError, match=r"embed_tokens\.weight is not finite in float16.*`backbone\.dtype`"):
        backbone.load(out, "float16")


@pytest.mark.parametrize("kind", [hf.BertModel, hf.RobertaModel], ids=["BERT", "RoBERTa"])
def test_a_part_that_is_never_used_may_be_missing(folder: Path, kind: Any) -> None:
    """Masked language models are published without the pooler that the base model has."""
    saved(folder, kind(kind.config_class(**SHAPE)))
    edit(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if "pooler" not in name})
    first, second = (backbone.load(described(folder)).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first if "pooler" not in name)


def test_what_is_used_is_seen_by_its_gradient() -> None:
    model = hf.BertModel(hf.BertConfig(**SHAPE)).eval()
    names = {name for name, _ in model.named_parameters()}
    assert unused(model, names) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert unused(model, names - {"pooler.dense.weight"}) == {"pooler.dense.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters()), "left as it was"


def test_two_loads_are_the_same_model(folder: Path) -> None:
    out = described(saved(folder, llama()))
    first, second = (backbone.load(out).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: hf.T5Model(hf.T5Config(**T5)), "is an encoder-decoder (t5)"),
        (lambda: hf.BartModel(hf.BartConfig(**BART)), "is an encoder-decoder (bart)"),
        (lambda: hf.AlbertModel(hf.AlbertConfig(**ALBERT)), "reads vectors of width 16 and gives vectors of width 32"),
        (lambda: hf.ViTModel(hf.ViTConfig(**VIT)), "cannot be used: a ViTModel does not take embeddings"),
        (lambda: llama(vocab_size=200), "up to number 319, its table of embeddings 200 rows"),
    ],
    ids=["T5", "BART", "ALBERT", "ViT", "a small table"],
)  # fmt: skip
def test_a_model_that_cannot_be_used_is_refused_in_a_line(
    folder: Path, model: Callable[[], Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(saved(folder, model()), capfd)


@pytest.mark.parametrize("method", ["gptq", "awq", "aqlm", "compressed-tensors"])
def test_a_quantized_model_without_its_package(folder: Path, method: str) -> None:
    settings = {"quant_method": method, "bits": 4, "group_size": 128}
    line = refused(saved(folder, llama(), quantization_config=settings))
    assert "cannot be loaded: " in line
    assert method in line.lower()


def test_an_added_token_that_no_text_becomes_may_lack_a_row(folder: Path) -> None:
    """As in Gemma 3's text models."""
    saved(folder, llama())
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) == 321
    assert backbone.load(described(folder)).limit == 64


def test_a_tokenizer_that_knows_no_word(folder: Path) -> None:
    saved(folder, llama())
    content = read_json(folder / "tokenizer.json")
    content["model"] = {"type": "WordLevel", "vocab": {"<unk>": 0, "mouse": 1}, "unk_token": "<unk>"}
    content["post_processor"] = None
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert "makes the same tokens of any text" in refused(folder)


LIMITS = {
    "Llama": (hf.LlamaModel, hf.LlamaConfig(**SHAPE), 64, False),
    "GPT-2": (hf.GPT2Model, hf.GPT2Config(**GPT_2, n_positions=64), 64, True),
    "RoBERTa": (hf.RobertaModel, hf.RobertaConfig(**{**SHAPE, "max_position_embeddings": 66}), 64, True),
    "BERT": (hf.BertModel, hf.BertConfig(**SHAPE), 64, True),
    "OPT": (hf.OPTModel, hf.OPTConfig(**OPT, word_embed_proj_dim=32, max_position_embeddings=64), 64, True),
    "BioGPT": (hf.BioGptModel, hf.BioGptConfig(**SHAPE), 64, True),
    "XGLM": (hf.XGLMModel, hf.XGLMConfig(**XGLM), 64, False),
    "GPT-Neo": (hf.GPTNeoModel, hf.GPTNeoConfig(**NEO, max_position_embeddings=64, window_size=16), 64, True),
    "MPNet": (hf.MPNetModel, hf.MPNetConfig(**{**SHAPE, "max_position_embeddings": 66}), 64, True),
    "XLNet": (hf.XLNetModel, hf.XLNetConfig(**WORDS, d_model=32, n_layer=1, n_head=2, d_inner=48), None, False),
    "MPT": (hf.MptModel, hf.MptConfig(**WORDS, d_model=32, n_heads=2, n_layers=1, max_seq_len=64), 64, True),
    "Mamba": (hf.MambaModel, hf.MambaConfig(**WORDS, hidden_size=32, num_hidden_layers=1, state_size=8), None, False),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_longest_input_is_what_really_runs(name: str) -> None:
    kind, config, limit, ends = LIMITS[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    assert longest_input(model) == limit

    def run(length: int) -> Tensor:
        mask = torch.ones(2, length, dtype=torch.long)
        mask[0, length // 3 :] = 0
        with torch.no_grad():
            inputs = model.get_input_embeddings()(torch.arange(2 * length).reshape(2, -1) % len(TOKENIZER))
            return model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state

    assert run(limit or 200).isfinite().all()
    if ends:
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            run(limit + 1)


def test_a_limit_that_only_a_nested_configuration_states(folder: Path) -> None:
    text = {**SHAPE, "num_key_value_heads": 2, "head_dim": 16}
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**text), vision_config=hf.CLIPVisionConfig(**VIT, image_size=32, patch_size=16)
    )
    loaded = backbone.load(described(saved(folder, hf.LlavaModel(config))))
    assert (loaded.limit, loaded.width) == (64, 32)


def test_the_limit_that_was_tried_is_kept_with_the_reference(folder: Path) -> None:
    config = hf.RobertaConfig(**{**SHAPE, "max_position_embeddings": 66})
    out = described(saved(folder, hf.RobertaModel(config)))
    assert read_json(out / "backbone.json")["limit"] == 64
    assert backbone.load(out).limit == 64
    assert backbone.load(as_embedded(folder)).limit == 64, "and found again where no stage has written it"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("What is wrong. Please upgrade.\nmore"), "What is wrong"),
        (ValueError("Validation failed:\n  the width is 3\n"), "Validation failed: the width is 3"),
        (KeyError("rope"), "KeyError: 'rope'"),
        (RuntimeError(""), "RuntimeError"),
        (AssertionError(), "AssertionError"),
        (ValueError("x" * 1000), "x" * 237 + "..."),
    ],
)
def test_another_librarys_error_becomes_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.1.self_attn.q_norm.weight", "model.norm.bias"]
)
def test_tensors_within_layers_that_the_model_would_not_use(folder: Path, name: str) -> None:
    saved(folder, llama())
    edit(folder, lambda tensors: {**tensors, name: torch.ones(32)})
    assert f"they would not use as config.json describes them ({name})" in refused(folder)


HEADS = [
    hf.LlamaForSequenceClassification, hf.GPT2LMHeadModel, hf.GPTNeoForCausalLM, hf.OPTForCausalLM, hf.BertForMaskedLM,
    hf.BertForPreTraining, hf.RobertaForMaskedLM, hf.ElectraForPreTraining, hf.MambaForCausalLM,
]  # fmt: skip


@pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)
def test_heads_and_buffers_that_older_versions_saved_are_left_aside(folder: Path, kind: Any) -> None:
    shapes = {"gpt2": GPT_2, "gpt_neo": NEO, "opt": {**OPT, "word_embed_proj_dim": 32},
              "mamba": {**WORDS, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 8}}  # fmt: skip
    shapes["electra"] = {**SHAPE, "embedding_size": 32}
    shape = shapes.get(kind.config_class.model_type, SHAPE)
    saved(folder, kind(kind.config_class(**shape, tie_word_embeddings=False, pad_token_id=0)))
    old = {
        "LlamaForSequenceClassification": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)},
        "GPT2LMHeadModel": {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64)},
        "BertForMaskedLM": {"bert.embeddings.position_ids": torch.arange(64)[None]},
    }
    edit(folder, lambda tensors: {**tensors, **old.get(kind.__name__, {})})
    assert backbone.load(described(folder)).width == 32
