import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llmsrec.errors import DataError, ParamsError
from llmsrec.files import read_json
from llmsrec.models import backbone

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


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.safetensors", "holds no weights"), ("config.json", "holds no config.json")],
)
def test_a_folder_without_weights_or_configuration(local: Path, tmp_path: Path, name: str, message: str) -> None:
    (local / name).unlink()
    with pytest.raises(DataError, match=message):
        backbone.describe(str(local), None, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out/backbone.json").exists()


def test_damaged_weights(local: Path, tmp_path: Path) -> None:
    (local / "model.safetensors").write_bytes(b"not weights")
    backbone.describe(str(local), None, tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="cannot be loaded"):
        backbone.load(tmp_path / "out")


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/no/where/at/all"])
def test_neither_a_folder_nor_a_hub_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=re.escape(repr(name))):
        backbone.describe(name, None, tmp_path, tmp_path / "out")


def test_a_hub_id_needs_a_commit(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"backbone\.revision"):
        backbone.describe("owner/name", None, tmp_path, tmp_path / "out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_quantization_needs_cuda(backbone_folder: Path) -> None:
    with pytest.raises(ParamsError, match="needs a CUDA device"):
        backbone.load(backbone_folder, quantization="4bit")


def test_lora_adds_trainable_adapters_and_starts_as_the_same_model(backbone_folder: Path) -> None:
    plain = backbone.load(backbone_folder)
    inputs = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    before = plain.model(inputs_embeds=inputs).last_hidden_state
    tuned = backbone.add_lora(plain, 2, seed=0)
    torch.testing.assert_close(tuned.model(inputs_embeds=inputs).last_hidden_state, before)
    trainable = [name for name, parameter in tuned.model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
