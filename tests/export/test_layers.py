"""The backbone for ONNX Runtime, as it is written and measured; tests/serving/test_on_onnx.py asks it."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmsrec.export import layers
from llmsrec.files import read_json
from llmsrec.serving.on_onnx import as_float32, stored


@pytest.fixture
def unsealed(tiny: Any, tmp_path: Path) -> Path:
    """The tiny bundle's folder as it is before its layers are written."""
    return Path(shutil.copytree(tiny.bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("layers")))


def write(tiny: Any, folder: Path, tolerance: float = 1e-4) -> dict[str, Any]:
    return layers.write(folder, tiny.model, tiny.model.item_vectors().numpy(), tiny.sequences, tolerance)


def test_a_bundle_holds_the_graph_beside_the_weights_and_tells_how_near_it_is(tiny: Any) -> None:
    parity = read_json(tiny.bundle / "parity.json")["language_model"]
    assert (parity["runtime"], parity["overlap_10"], parity["prompts"]) == ("onnx", 1.0, 30)
    assert 0 < parity["largest_difference"] < 1e-5
    weights = read_json(tiny.bundle / "layers/layers.json")["weights"]
    held = load_file(tiny.bundle / "backbone/model.safetensors")
    assert set(weights.values()) == {*held} - {"embed_tokens.weight"}
    graph = (tiny.bundle / "layers/decoder.onnx").read_bytes()
    assert not any(held[name].numpy().tobytes() in graph for name in weights.values())


def test_weights_in_the_file_of_a_whole_language_model_are_found(tiny: Any, unsealed: Path) -> None:
    path = unsealed / "backbone/model.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in load_file(path).items()}, path)
    assert write(tiny, unsealed)["runtime"] == "onnx"
    assert all(name.startswith("model.") for name in read_json(unsealed / "layers/layers.json")["weights"].values())


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_stored_numbers_are_those_that_torch_reads(kind: torch.dtype, tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5).to(kind), "b": torch.tensor([0.0, -0.0, 1e-6, 300.0]).to(kind)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    actual = dict(stored({"model.safetensors": tmp_path / "model.safetensors"}))
    assert actual.keys() == tensors.keys()
    for name, values in actual.items():
        np.testing.assert_array_equal(as_float32(values), tensors[name].float().numpy())


def test_a_graph_that_gives_other_vectors_is_left_out_and_torch_serves(
    tiny: Any, unsealed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = layers.Behind.forward

    def wrong(self: layers.Behind, inputs: Any, read: Any, positions: Any, present: Any, past: Any) -> Any:
        hidden, new = right(self, inputs, read, positions, present, past)
        return hidden + torch.linspace(-2, 2, hidden.shape[1]), new

    monkeypatch.setattr(layers.Behind, "forward", wrong)
    measured = write(tiny, unsealed)
    assert measured["runtime"] == "torch" and measured["overlap_10"] < 0.99
    assert not (unsealed / "layers").exists()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the language model is served by torch, not by ONNX Runtime: vectors differ by ")


def test_a_difference_beyond_the_tolerance_is_enough(tiny: Any, unsealed: Path) -> None:
    measured = write(tiny, unsealed, tolerance=1e-12)
    assert measured["runtime"] == "torch" and measured["overlap_10"] == 1.0


def test_other_weights_than_those_that_run_are_left_to_torch(tiny: Any, unsealed: Path) -> None:
    path = unsealed / "backbone/model.safetensors"
    held = load_file(path)
    held["norm.weight"] = held["norm.weight"] + 1
    save_file(held, path)
    assert write(tiny, unsealed)["reason"] == "its files hold norm.weight otherwise than it is run with"


def test_adapters_and_other_layers_than_llamas_are_left_to_torch(tiny_lora: Any) -> None:
    parity = read_json(tiny_lora.bundle / "parity.json")["language_model"]
    assert parity == {"runtime": "torch", "reason": "it has adapters"}
    assert not (tiny_lora.bundle / "layers").exists()
    other: Any = SimpleNamespace(decoder=None)  # as `LLMSRec` has it where `engine.shortcuts` found no Llama
    with pytest.raises(layers.Unfit, match="its layers are not Llama's"):
        layers._frozen(other)
