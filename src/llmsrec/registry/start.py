"""A registered version's weights, taken out of its verified bundle for a training to begin from (`train.start`).

They cannot be read off the bundle's ONNX files: the exporter transposes some and keeps one of several equal ones. So a
bundle holds them a second time, but for item vectors, tokens and adapters, which it has as they are.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmsrec.engine import backbone_files
from llmsrec.errors import DataError, ParamsError
from llmsrec.files import read_json, write_json
from llmsrec.registry import tracking, verified
from llmsrec.serving.bundle import Bundle
from llmsrec.training import start


def bring(root: Path, name: str, folder: Path) -> None:
    """Write into `folder` what `train.start` names, see `llmsrec.training.start`.

    Args:
        root: the repository.
        name: a version such as `shop/3`.

    Raises:
        ParamsError: an alias, which would stand for something else tomorrow; the number to write is named.
        DataError: there is no such version, no registry, the bundle is not what was registered, or it is from before
            bundles kept what a training needs.
    """
    building = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        with _bundle(root, name) as source:
            extract(Bundle.open(source), name, building)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _bundle(root: Path, name: str) -> Iterator[Path]:
    with tracking.existing(root, "Run the same command again") as client:
        yield verified.verified(client, _version(client, name)) / "artifacts/bundle"


def _version(client: MlflowClient, name: str) -> ModelVersion:
    model, mark, which = re.fullmatch(r"([^/@]+)([/@])(.+)", name).groups()  # type: ignore[union-attr]
    try:
        if mark == "/":
            return client.get_model_version(model, which)
        number = client.get_model_version_by_alias(model, which).version
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise DataError(
            f"`train.start` is {name}, which is not registered at {client.tracking_uri}: {_known(client, model)}. Set "
            "it to a version that is, or to scratch."
        ) from error
    raise ParamsError(
        f"`train.start` is {name}, an alias, which may stand for another version tomorrow; write {model}/{number}, "
        "which it is now."
    )


def _known(client: MlflowClient, model: str) -> str:
    numbers = [int(version.version) for version in client.search_model_versions(f"name = '{model}'")]
    return f"{model} has versions up to {max(numbers)}" if numbers else f"no model {model} is there"


def extract(bundle: Bundle, version: str, folder: Path) -> None:
    """Write an opened bundle's weights and settings into `folder`.

    Raises:
        DataError: the bundle lacks some of them.
        ParamsError: it is no LLM-SRec's, or another system than SASRec taught it.
    """
    config, path, adapter = bundle.config, bundle.folder / start.WEIGHTS, bundle.folder / "adapter.safetensors"
    if "llm" not in bundle.towers:
        raise ParamsError(
            f"`train.start` is {version}, which is {bundle.teacher} by itself, with nothing that LLM-SRec could begin "
            "from. Set it to a version of LLM-SRec, or to scratch."
        )
    if "teacher" not in config or not path.is_file():
        raise DataError(
            f"`train.start` is {version}, whose bundle is from before bundles kept what a training begins from; begin "
            "from a newer version, or set `train.start` to scratch."
        )
    system = bundle.config["teacher"].get("system", "sasrec")
    if system != "sasrec":
        raise ParamsError(
            f"`train.start` is {version}, which {system} taught; a training can begin from a version that SASRec "
            "taught, and from no other. Set it to such a version, or to scratch."
        )
    weights = load_file(path)
    heads, teacher = (_under(part, weights) for part in ("heads/", "teacher/"))
    heads |= {name: torch.from_numpy(bundle.tensors[name]) for name in start.TOKENS}
    if adapter.is_file():
        heads |= {f"backbone.{name}": tensor for name, tensor in load_file(adapter).items()}
    teacher[start.ITEM_TABLE] = torch.from_numpy(bundle.tensors["item_embeddings"][: bundle.trained + 1])
    save_file(heads, folder / start.HEADS)
    save_file(teacher, folder / start.TEACHER)
    bundle.items.head(bundle.trained).select("item_id", "parent_asin").write_parquet(folder / start.ITEMS)
    if read_json(bundle.folder / "backbone/backbone.json")["model"] == "embedded":
        shutil.copytree(bundle.folder / "backbone", folder / start.BACKBONE)
    record = {
        "version": version,
        "bundle_sha256": bundle.digest,
        "settings": settings(config, heads["f_user.0.weight"].shape[0], bundle.folder / "backbone"),
        "backbone": backbone_files.identity(bundle.folder / "backbone"),
    }
    write_json(folder / start.RECORD, record)


def settings(config: dict[str, Any], head_hidden: int, backbone: Path) -> dict[str, Any]:
    """The settings that give a bundle's weights their shapes and meaning, under their names in params.yaml."""
    others = ("system", "items", "dropout")
    teacher = {f"sasrec.{key}": value for key, value in config["teacher"].items() if key not in others}
    model = {
        "model.teacher": config["teacher"].get("system", "sasrec"),
        "model.d_prime": config["shapes"]["d_prime"],
        "model.head_hidden": head_hidden,
        "model.user_representation": config["prompts"]["user_representation"],
        "backbone.lora_rank": config["backbone"]["lora_rank"],
    }
    if read_json(backbone / "backbone.json")["model"] == "embedded":
        shape = read_json(backbone / "config.json")
        model |= {
            "backbone.embedded.hidden_size": shape["hidden_size"],
            "backbone.embedded.layers": shape["num_hidden_layers"],
            "backbone.embedded.heads": shape["num_attention_heads"],
        }
    return teacher | model


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
