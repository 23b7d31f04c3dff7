"""What the stage `start` takes out of a registered version, and what it refuses."""

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from llmsrec.engine import backbone_files
from llmsrec.errors import DataError, ParamsError
from llmsrec.files import read_json, write_json
from llmsrec.registry import start
from llmsrec.serving.bundle import Bundle, seal, verify
from llmsrec.training import start as training
from stages import start as stage
from stages.common import Stage


@pytest.fixture
def begun(registry: Any, tmp_path: Path) -> Path:
    start.bring(registry.root, "llm-srec/1", tmp_path / "start")
    return tmp_path / "start"


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_the_weights_are_exactly_those_that_were_trained(tiny: Any, begun: Path) -> None:
    assert same(load_file(begun / "heads.safetensors"), load_file(tiny.folder / "models/llm_srec/model.safetensors"))
    assert same(load_file(begun / "teacher.safetensors"), load_file(tiny.folder / "models/sasrec/model.safetensors"))
    record = read_json(begun / "start.json")
    assert (record["version"], record["bundle_sha256"]) == ("llm-srec/1", verify(tiny.bundle))
    expected = {"sasrec.dim": 16, "sasrec.heads": 2, "sasrec.norm": "pre", "model.d_prime": 16, "model.head_hidden": 32}
    assert expected.items() <= record["settings"].items()
    assert backbone_files.identity(begun / "backbone") == backbone_files.identity(tiny.folder / "models/backbone")


def test_adapters_and_the_head_of_the_user_representation_are_among_them(tiny_lora: Any, tmp_path: Path) -> None:
    start.extract(Bundle.open(tiny_lora.bundle), "shop/1", tmp_path)
    assert same(
        load_file(tmp_path / "heads.safetensors"), load_file(tiny_lora.folder / "models/llm_srec/model.safetensors")
    )
    assert not (tmp_path / "backbone").exists(), "only an embedded backbone is made by the pipeline itself"
    record = read_json(tmp_path / "start.json")
    assert record["backbone"] == backbone_files.identity(tiny_lora.folder / "models/backbone")
    assert (record["settings"]["backbone.lora_rank"], record["settings"]["model.user_representation"]) == (2, True)


@pytest.mark.parametrize("name", ["scratch", "heads"])
def test_what_begins_from_no_version_is_a_file_that_says_so_and_needs_no_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/start").mkdir(parents=True)
    (tmp_path / "models/start/heads.safetensors").write_bytes(b"of a version")
    stage.main(Stage("start", SimpleNamespace(train=SimpleNamespace(start=name)), "", {}, tmp_path, Path()))
    assert training.read(tmp_path / "models/start") is None
    assert [path.name for path in tmp_path.rglob("*")] == ["models", "start", "start.json"], "no registry was made"


def test_an_alias_is_refused_with_the_number_to_write(registry: Any, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"`train.start` is llm-srec@candidate, an alias, .* write llm-srec/1, "):
        start.bring(registry.root, "llm-srec@candidate", tmp_path / "start")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("llm-srec/77", r"llm-srec has versions up to \d+"),
        ("llm-srec@never", r"llm-srec has versions up to \d+"),
        ("shoes/1", "no model shoes is there"),
    ],
)
def test_a_version_that_is_not_registered(registry: Any, tmp_path: Path, name: str, known: str) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start/before").touch()
    with pytest.raises(DataError, match=rf"`train.start` is {name}, which is not registered at .*: {known}\."):
        start.bring(registry.root, name, tmp_path / "start")
    assert [path.name for path in tmp_path.rglob("*")] == ["start", "before"], "what was there is still there"


def test_a_registry_that_is_down_or_was_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no registry at .*mlflow\.db; "):
        start.bring(tmp_path, "shop/1", tmp_path / "start")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(DataError, match=rf"the registry at http://127.0.0.1:{port} does not answer"):
        start.bring(tmp_path, "shop/1", tmp_path / "start")
    assert not (tmp_path / "start").exists()


def test_an_altered_bundle_is_not_begun_from(registry: Any, tmp_path: Path) -> None:
    client = MlflowClient(registry.uri)
    version = client.get_model_version("llm-srec", "1")
    place = Path(start.verified._location(client, version).removeprefix("file://"))
    weights = place / "artifacts/bundle/weights.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(DataError, match=r"llm-srec version 1 is not what was registered.*weights\.safetensors"):
            start.bring(registry.root, "llm-srec/1", tmp_path / "start")
    finally:
        weights.write_bytes(kept)
    assert not (tmp_path / "start").exists()


def test_a_bundle_from_before_says_so(tiny: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.bundle, tmp_path / "bundle"))
    config = read_json(folder / "config.json")
    del config["teacher"]
    write_json(folder / "config.json", config)
    (folder / "weights.safetensors").unlink()
    seal(folder)
    with pytest.raises(DataError, match="shop/1, whose bundle is from before bundles kept what a training begins from"):
        start.extract(Bundle.open(folder), "shop/1", tmp_path)
