"""Writes a bundle (see `llmsrec.serving.bundle`) from a trained LLM-SRec, and proves that it scores the same."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmsrec import closure
from llmsrec.data.sequences import Sequences
from llmsrec.engine.backbone_files import read_files
from llmsrec.errors import DataError
from llmsrec.export import onnx
from llmsrec.files import read_json, write_json
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.params import TOWERS
from llmsrec.serving.bundle import FORMAT, Model, seal
from llmsrec.training.start import ITEM_TABLE, TOKENS, WEIGHTS

ENTRY = "registry/pyfunc.py"  # what MLflow loads of a bundle


class Last(nn.Module):
    """The teacher's user vector as a module of its own: `[B, max_length]` item ids -> `[B, d]`."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, items: Tensor) -> Tensor:
        return self.teacher.last(items)


def write(
    folder: Path,
    model: LLMSRec,
    config: dict[str, Any],
    catalogue: pl.DataFrame,
    backbone: Path,
    sequences: Sequences,
    users: int,
    tolerance: float,
    repeats: str = "first",
) -> str:
    """Write a whole bundle, or nothing: `folder` is replaced only once everything agrees.

    Args:
        config: the model's config.json, with its `model`, `backbone` and `data` sections.
        catalogue: `item_id, parent_asin, title, count, store, categories`, ascending from 1.
        backbone: folder of the backbone stage.
        sequences: histories to compare on, e.g. those of the test split.
        users: at most so many of them.
        tolerance: largest difference between torch and ONNX Runtime, see `onnx.compare`.
        repeats: data.repeats of the training data; with `keep` items of a history are recommended again.

    Returns:
        The bundle's digest.

    Raises:
        DataError: torch and ONNX Runtime do not agree.
    """
    building = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        item_vectors = _write_onnx(building, model, sequences, users, tolerance)
        save_file(
            {
                "item_vectors": item_vectors,
                "item_embeddings": model.teacher.item_vectors().detach().cpu().contiguous(),
                "user_out": model.user_out.detach().cpu(),
                "item_out": model.item_out.detach().cpu(),
            },
            building / "vectors.safetensors",
        )
        save_file(_weights(model), building / WEIGHTS)
        catalogue.write_parquet(building / "items.parquet")
        write_json(building / "config.json", _config(model, config, repeats))
        _write_backbone(building, model, backbone)
        write_code(building)
        digest = seal(building)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return digest


def _write_onnx(folder: Path, model: LLMSRec, sequences: Sequences, users: int, tolerance: float) -> Tensor:
    """Export the small modules, compare them on real inputs and the towers by top 10; return the item vectors."""
    chosen = np.unique(np.linspace(1, sequences.users, min(users, sequences.users)).round().astype(np.int64))
    with _inputs_of(model.f_item) as hidden_items:
        item_vectors = model.item_vectors()
    with _inputs_of(model.f_user) as hidden_users:
        model.user_vectors(sequences, chosen)
    teacher = deepcopy(model.teacher).cpu().eval()
    seen = teacher.user_vectors(sequences)[chosen]
    cases: dict[str, tuple[nn.Module, Tensor]] = {
        "f_item": (model.f_item, torch.cat(hidden_items)),
        "f_user": (model.f_user, torch.cat(hidden_users)),
        "f_cf_user": (model.f_cf_user, seen),
        "f_I": (model.f_I, teacher.item_vectors().detach()[1:]),
        teacher.system: (Last(teacher), torch.from_numpy(sequences.last(teacher.max_length)[chosen])),
    }
    if model.f_U is not None:
        cases["f_U"] = (model.f_U, seen)

    differences, outputs = {}, {}
    for name, (module, inputs) in cases.items():
        module, path = deepcopy(module).cpu().eval(), folder / "onnx" / f"{name}.onnx"
        onnx.export(module, inputs[:2], path)
        *outputs[name], differences[name] = onnx.compare(module, path, inputs)
        if not differences[name] <= tolerance:
            raise DataError(
                f"{name}: torch and ONNX Runtime differ by {differences[name]:.1e}, more than export.tolerance "
                f"{tolerance:g}. Nothing was exported; do not serve this model before the cause is known."
            )
    # What the cf tower does is one file after the other, on what ONNX Runtime itself gave.
    run = Model(folder / "onnx" / "f_cf_user.onnx")
    outputs["cf"] = [outputs["f_cf_user"][0], run(outputs[teacher.system][1])]
    outputs["llm"] = outputs["f_user"]
    outputs["teacher"], own = outputs[teacher.system], [teacher.item_vectors().detach()[1:].numpy()] * 2
    tops = {}
    for tower in TOWERS:
        expected, found = zip(outputs[tower], own if tower == "teacher" else outputs["f_item"], strict=True)
        tops[tower] = onnx.same_top(expected, found, tolerance)
        if tops[tower]["same"] < tops[tower]["users"]:
            raise DataError(
                f"tower {tower}: {tops[tower]['users'] - tops[tower]['same']} of {tops[tower]['users']} users get "
                "another top 10 from ONNX Runtime than from torch. Nothing was exported."
            )
    rounded = {name: float(f"{value:.1e}") for name, value in differences.items()}
    write_json(folder / "parity.json", {"largest_difference": rounded, "tolerance": tolerance, "top_10": tops})
    return item_vectors


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into `module` while other code runs it."""
    inputs: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach().cpu()))
    try:
        yield inputs
    finally:
        hook.remove()


def _weights(model: LLMSRec) -> dict[str, Tensor]:
    """Of the heads and of the teacher, for a training that begins from them, what no other file holds as it is."""
    heads = {name: parameter for name, parameter in model.trainable().items() if not name.startswith("backbone.")}
    parts = {"heads": heads, "teacher": model.teacher.state_dict()}
    held = {f"heads/{name}" for name in TOKENS} | {f"teacher/{ITEM_TABLE}"}
    weights = {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items() if name not in held}


def _config(model: LLMSRec, config: dict[str, Any], repeats: str) -> dict[str, Any]:
    first = repeats == "first"
    return {
        "format": FORMAT,
        "backbone": config["backbone"],
        "data": config["data"],
        "distilled": config["model"]["distill"],
        "prompts": asdict(model.prompts.settings),
        "start": config.get("start"),
        "teacher": {"system": model.teacher.system} | model.teacher.config,
        "protocol": {
            "score": "dot product of user and item vector",
            "history": f"by timestamp, ties in the order given, {'the first of' if first else 'all'} repeats kept",
            "excluded": "items of the history" if first else "nothing: items of the history are recommended again",
            "repeats": repeats,
        },
        "shapes": {
            "items": len(model.teacher.item_vectors()) - 1,
            "max_length": model.teacher.max_length,
            "d": model.teacher.item_vectors().shape[1],
            "d_llm": len(model.user_out),
            "d_prime": config["model"]["d_prime"],
        },
    }


def _write_backbone(folder: Path, model: LLMSRec, backbone: Path) -> None:
    """The reference to a hub model, or the files themselves: a local folder, too, is nowhere else to be had."""
    reference, target = read_json(backbone / "backbone.json"), folder / "backbone"
    target.mkdir(parents=True)
    if reference["kind"] != "hub":
        local = reference["kind"] == "local"
        source = Path(reference["model"]) if local else backbone
        for name, file in read_files(source, follow=not local).items():
            shutil.copyfile(file, target / name)
        measured = {key: reference[key] for key in ("limit",) if key in reference}
        reference = {"kind": "embedded", "model": Path(reference["model"]).name, "revision": None, **measured}
    write_json(target / "backbone.json", reference)
    adapter = {
        name.removeprefix("backbone."): parameter.detach().cpu().contiguous()
        for name, parameter in model.trainable().items()
        if name.startswith("backbone.")
    }
    if adapter:
        save_file(adapter, folder / "adapter.safetensors")


def write_code(folder: Path) -> None:
    """Copy the modules that answer requests into a bundle."""
    package = closure.PACKAGE
    modules = closure.reached([package / ENTRY])
    modules |= {package / room / "__init__.py" for path in modules for room in path.relative_to(package).parents}
    for path in modules:
        target = folder / "code" / path.relative_to(package.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
