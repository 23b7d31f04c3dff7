"""Models from GGUF files: small ones that the format's own writer makes, and the one that a package holds."""

import json
import shutil
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmsrec.engine import backbone, embedded, gguf
from llmsrec.errors import DataError, ParamsError
from llmsrec.files import read_json, sha256

writer = pytest.importorskip("gguf", reason="requirements.txt is not installed as it stands")
TOKENIZER = embedded.train_tokenizer(["Red Soap", "Blue Tent"], 320, np.random.default_rng(0))
HEADS, LAYERS = 2, 2


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=128, tie_word_embeddings=True,
        initializer_range=0.2, rms_norm_eps=1e-5, bos_token_id=TOKENIZER.bos_token_id,
        eos_token_id=TOKENIZER.eos_token_id, pad_token_id=TOKENIZER.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """Under GGUF's names, query and key rows in its order."""

    def paired(weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(HEADS, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)

    named = {"token_embd.weight": model.model.embed_tokens.weight, "output_norm.weight": model.model.norm.weight}
    for number, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        parts = {
            "attn_norm": layer.input_layernorm.weight, "ffn_norm": layer.post_attention_layernorm.weight,
            "attn_q": paired(attention.q_proj.weight), "attn_k": paired(attention.k_proj.weight),
            "attn_v": attention.v_proj.weight, "attn_output": attention.o_proj.weight,
            "ffn_gate": mlp.gate_proj.weight, "ffn_up": mlp.up_proj.weight, "ffn_down": mlp.down_proj.weight,
        }  # fmt: skip
        named |= {f"blk.{number}.{name}.weight": value for name, value in parts.items()}
    return {name: value.detach().numpy() for name, value in named.items()}


def write(path: Path, values: dict[str, np.ndarray], architecture: str = "llama", **changes: Any) -> Path:
    """A GGUF file; `changes` name `tokens`, `bos`, `kind` (a quantization), `layers` or `scaling`."""
    out = writer.GGUFWriter(path, architecture)
    out.add_name("tiny")
    out.add_context_length(128)
    out.add_embedding_length(32)
    out.add_block_count(changes.get("layers", LAYERS))
    out.add_feed_forward_length(64)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10_000.0)
    if "scaling" in changes:
        out.add_rope_scaling_type(changes["scaling"])
    content = json.loads(TOKENIZER.backend_tokenizer.to_str())
    words = sorted(TOKENIZER.get_vocab(), key=TOKENIZER.get_vocab().__getitem__)[: changes.get("tokens")]
    special = {token["id"] for token in content["added_tokens"]}
    out.add_tokenizer_model("gpt2")
    out.add_token_list(words)
    out.add_token_types([3 if number in special else 1 for number in range(len(words))])
    out.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    out.add_bos_token_id(changes.get("bos", TOKENIZER.bos_token_id))
    out.add_eos_token_id(TOKENIZER.eos_token_id)
    out.add_pad_token_id(TOKENIZER.pad_token_id)
    for name, value in values.items():
        kind = changes.get("kind")
        if kind is not None and value.ndim == 2:
            out.add_tensor(name, writer.quantize(value, kind), raw_dtype=kind)
        else:
            out.add_tensor(name, value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return llama()


@pytest.fixture
def file(tmp_path: Path, model: LlamaForCausalLM) -> Path:
    return write(tmp_path / "tiny.gguf", tensors(model))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        gguf.convert(path.name, path.parent, path.parent / "out")
    assert "\n" not in str(caught.value)
    assert not (path.parent / "out/backbone.json").exists()
    return str(caught.value)


def test_a_file_becomes_an_ordinary_folder_with_the_same_model(file: Path, model: LlamaForCausalLM) -> None:
    out = file.parent / "out"
    gguf.convert("tiny.gguf", file.parent, out)
    assert read_json(out / "backbone.json")["source"] == {"sha256": sha256(file), "path": str(file)}
    assert "quantization_config" not in read_json(out / "config.json")
    loaded = backbone.load(out)
    ids = torch.tensor([TOKENIZER(" Red Soap 2014/01/30")["input_ids"]])
    inputs = model.model.embed_tokens(ids)
    expected = model.model(inputs_embeds=inputs).last_hidden_state
    torch.testing.assert_close(loaded.model(inputs_embeds=inputs).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    for text in (" Red Soap", " Blue Tent for 4", "naïve ☕"):
        tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert loaded.tokenizer.decode(tokens) == text
    assert loaded.limit == 128


def test_quantized_weights_are_dequantized(tmp_path: Path, model: LlamaForCausalLM) -> None:
    path = write(tmp_path / "tiny.gguf", tensors(model), kind=writer.GGMLQuantizationType.Q8_0)
    gguf.convert(str(path), Path("/"), tmp_path / "out")
    own = dict(model.model.named_parameters())
    for name, value in backbone.load(tmp_path / "out").model.named_parameters():
        torch.testing.assert_close(value, own[name], rtol=0.02, atol=0.01)


def test_a_changed_file_is_noticed_when_the_folder_is_loaded(file: Path, model: LlamaForCausalLM) -> None:
    out = file.parent / "out"
    gguf.convert("tiny.gguf", file.parent, out)
    with file.open("ab") as handle:
        handle.write(b"more")
    with pytest.raises(DataError, match=r"tiny\.gguf has changed since"):
        backbone.load(out)
    file.unlink()
    backbone.load(out)  # whole without it


def test_a_missing_tensor_and_an_odd_one_are_named(tmp_path: Path, model: LlamaForCausalLM) -> None:
    values = tensors(model)
    gone = {name: value for name, value in values.items() if name != "blk.1.ffn_up.weight"}
    assert "lacks tensors of the 2 layers that it states: blk.1.ffn_up.weight (1 in all)" in refused(
        write(tmp_path / "a.gguf", gone)
    )
    odd = {**values, "rope_freqs.weight": np.ones(8, np.float32)}
    assert "does not have or the reader leaves out: rope_freqs.weight (1 in all)" in refused(
        write(tmp_path / "b.gguf", odd)
    )
    line = refused(write(tmp_path / "c.gguf", values, layers=3))
    assert "blk.2.attn_k.weight, blk.2.attn_norm.weight, blk.2.attn_output.weight, ... (9 in all)" in line


def test_another_vocabulary_than_the_tables(tmp_path: Path, model: LlamaForCausalLM) -> None:
    line = refused(write(tmp_path / "a.gguf", tensors(model), tokens=300))
    assert "has 300 tokens in its vocabulary, 320 rows in its table of embeddings" in line
    assert "its bos token is number 5000 of a vocabulary of 320" in refused(
        write(tmp_path / "b.gguf", tensors(model), bos=5000)
    )


def test_another_architecture(tmp_path: Path, model: LlamaForCausalLM) -> None:
    path = write(tmp_path / "a.gguf", tensors(model), architecture="qwen2")
    assert 'architecture "qwen2"; only Llama\'s (llama) is read' in refused(path)


def test_scaled_positions(tmp_path: Path, model: LlamaForCausalLM) -> None:
    path = write(tmp_path / "a.gguf", tensors(model), scaling=writer.RopeScalingType.LINEAR)
    assert '`llama.rope.scaling.type` is "linear"' in refused(path)
    gguf.convert(
        str(write(tmp_path / "b.gguf", tensors(model), scaling=writer.RopeScalingType.NONE)), Path("/"), tmp_path
    )


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert str(file) in refused(file)


def test_no_gguf_file_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04 something else")
    assert "a.gguf is not a GGUF file" in refused(tmp_path / "a.gguf")
    assert "there is no file" in refused(tmp_path / "b.gguf")


def test_a_disk_that_is_too_small(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1 << 20))
    assert "GiB as a folder" in refused(file)
    assert not list((file.parent / "out").iterdir())


def test_weights_that_are_not_finite(tmp_path: Path, model: LlamaForCausalLM) -> None:
    values = tensors(model)
    values["blk.0.ffn_up.weight"] = np.full_like(values["blk.0.ffn_up.weight"], np.nan)
    gguf.convert(str(write(tmp_path / "a.gguf", values)), Path("/"), tmp_path / "out")
    with pytest.raises(DataError, match=r"layers\.0\.mlp\.up_proj\.weight is not finite"):
        backbone.load(tmp_path / "out")


@pytest.mark.parametrize("version", [None, "0.1.1"])
def test_smollm2_without_its_package(version: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def installed(name: str) -> Any:
        if version is None:
            raise PackageNotFoundError(name)
        return namedtuple("Distribution", "version")(version)

    monkeypatch.setattr(gguf, "distribution", installed)
    with pytest.raises(ParamsError, match="`make smollm2` installs"):
        gguf.convert("smollm2", tmp_path, tmp_path / "out")


def has_smollm2() -> bool:
    try:
        return distribution(gguf.PACKAGE).version == gguf.VERSION
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_smollm2(), reason="`make smollm2` installs it")
def test_smollm2_itself_goes_on_as_one_would(tmp_path: Path) -> None:
    gguf.convert("smollm2", tmp_path, tmp_path / "out")
    assert "path" not in read_json(tmp_path / "out/backbone.json")["source"], "of the machine"
    loaded = backbone.load(tmp_path / "out")
    assert (loaded.width, loaded.limit, loaded.causal) == (576, 8192, True)
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = loaded.model(input_ids=ids).last_hidden_state[0, -1]
    words = loaded.model.get_input_embeddings().weight  # tied
    assert loaded.tokenizer.decode(int((words @ hidden).argmax())) == " Paris"
