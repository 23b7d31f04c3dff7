"""Writes a bundle (see `llmsrec.serving.bundle`) from a trained model, and proves that it scores the same."""

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
from llmsrec.evaluation.blend import Blend
from llmsrec.export import index, layers, onnx
from llmsrec.files import read_json, write_json
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.retrieval import LLMSRec, token_batches
from llmsrec.serving.bundle import FORMAT, MANIFEST, Model, seal
from llmsrec.serving.towers import ITEMS
from llmsrec.training.start import ITEM_TABLE, TOKENS, WEIGHTS

ENTRY = "registry/pyfunc.py"  # what MLflow loads of a bundle
Cases = dict[str, tuple[nn.Module, Tensor]]  # name -> a module and rows of input
Users = dict[str, np.ndarray]  # tower -> `[U, d]` user vectors, from ONNX Runtime
Both = tuple[np.ndarray, np.ndarray]  # rows from torch, and from ONNX Runtime


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
    index_above: int | None = None,
    of_titles: dict[str, Tensor] | None = None,
) -> str:
    """Write a whole bundle, or nothing: `folder` is replaced only once everything agrees.

    Args:
        config: the model's config.json, with its `model`, `backbone`, `data` and `blend` sections.
        catalogue: `item_id, parent_asin, title, count, store, categories`, ascending from 1.
        backbone: folder of the backbone stage.
        sequences: histories to compare on, e.g. those of the test split.
        users: at most so many of them.
        tolerance: largest difference between torch and ONNX Runtime, see `onnx.compare`.
        repeats: data.repeats of the training data; with `keep` items of a history are recommended again.
        index_above: more items than so many are searched by an index; None: however many they are, they are not.
        of_titles: `projection` and `bias` of a teacher that knows titles (`models.text.item_vectors.load`). They are
            left out where the backbone was fine-tuned, as it then reads titles otherwise than when the teacher learned.

    Returns:
        The bundle's digest.

    Raises:
        DataError: torch and ONNX Runtime do not agree.
    """
    with _whole(folder, catalogue) as building:
        item_vectors, of_users = _write_onnx(building, model, sequences, users, tolerance, Blend(**config["blend"]))
        tensors = {
            "item_vectors": item_vectors,
            "item_embeddings": model.teacher.item_vectors().detach().cpu().contiguous(),
            "user_out": model.user_out.detach().cpu(),
            "item_out": model.item_out.detach().cpu(),
        }
        if of_titles and not config["backbone"]["lora_rank"]:
            tensors |= {f"title_{name}": tensor for name, tensor in of_titles.items()}
        save_file(tensors, building / "vectors.safetensors")
        save_file(_weights(model), building / WEIGHTS)
        asked = {tower: rows for tower, rows in of_users.items() if tower != "cf" or config["model"]["distill"]}
        indexed = index.write(building, tensors, asked, catalogue, index_above)
        write_json(building / "config.json", _config(model, config, repeats) | _index(indexed))
        _write_backbone(building, model, backbone)
        measured = layers.write(building, model, item_vectors.numpy(), sequences, tolerance)
        write_json(building / "parity.json", read_json(building / "parity.json") | {"language_model": measured})
    return str(read_json(folder / MANIFEST)["bundle_sha256"])


def write_alone(
    folder: Path,
    teacher: Teacher,
    data: dict[str, str],
    catalogue: pl.DataFrame,
    sequences: Sequences,
    users: int,
    tolerance: float,
    repeats: str = "first",
    index_above: int | None = None,
) -> str:
    """`write` of a sequential recommender by itself, which answers as the tower `teacher`.

    Args:
        data: part of the data -> its digest.
    """
    teacher = teacher.cpu().eval()
    with _whole(folder, catalogue) as building:
        outputs, differences = _export(building, _of_teacher(teacher, sequences, _some(sequences, users)), tolerance)
        _write_parity(building, differences, {"teacher": (outputs[teacher.system], _own(teacher))}, tolerance)
        embeddings = teacher.item_vectors().detach().contiguous()
        save_file({"item_embeddings": embeddings}, building / "vectors.safetensors")
        asked = {"teacher": outputs[teacher.system][1]}
        indexed = index.write(building, {"item_embeddings": embeddings}, asked, catalogue, index_above)
        shared = _of_any(teacher, repeats) | _index(indexed)
        write_json(building / "config.json", {"format": FORMAT, "towers": ["teacher"], "data": data} | shared)
    return str(read_json(folder / MANIFEST)["bundle_sha256"])


def catalogue(items: Path, train: Path) -> pl.DataFrame:
    """The filter's items.parquet with how many events of the training each item has, as `write` takes it."""
    counts = pl.read_parquet(train).group_by("item_id").agg(count=pl.len().cast(pl.Int64))
    joined = pl.read_parquet(items).join(counts, on="item_id", how="left", maintain_order="left")
    return joined.select("item_id", "parent_asin", "title", pl.col("count").fill_null(0), "store", "categories")


@contextmanager
def _whole(folder: Path, catalogue: pl.DataFrame) -> Iterator[Path]:
    """A folder for what one kind of model has; with what all have, and sealed, it then takes the place of `folder`."""
    building = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        catalogue.write_parquet(building / "items.parquet")
        write_code(building)
        seal(building)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_onnx(
    folder: Path, model: LLMSRec, sequences: Sequences, users: int, tolerance: float, blend: Blend
) -> tuple[Tensor, Users]:
    """Export the small modules, compare them on real inputs and the towers by top 10; item and user vectors."""
    chosen = _some(sequences, users)
    with _inputs_of(model.f_item) as hidden_items:
        item_vectors = model.item_vectors()
    with _inputs_of(model.f_user) as hidden_users:
        model.user_vectors(sequences, chosen)
    teacher = deepcopy(model.teacher).cpu().eval()
    seen = teacher.user_vectors(sequences)[chosen]
    _, of_items = model.prompts.item_prefixes(np.arange(1, len(item_vectors)))
    of_users = model.prompts.user_lengths([sequences.of(user)[0] for user in chosen.tolist()])
    cases: Cases = {
        "f_item": (model.f_item, _in_order(hidden_items, of_items, model)),
        "f_user": (model.f_user, _in_order(hidden_users, of_users, model)),
        "f_cf_user": (model.f_cf_user, seen),
        "f_I": (model.f_I, teacher.item_vectors().detach()[1:]),
        **_of_teacher(teacher, sequences, chosen),
    }
    if model.f_U is not None:
        cases["f_U"] = (model.f_U, seen)
    outputs, differences = _export(folder, cases, tolerance)
    # What the cf tower does is one file after the other, on what ONNX Runtime itself gave.
    run = Model(folder / "onnx" / "f_cf_user.onnx")
    towers = {
        "llm": (outputs["f_user"], outputs["f_item"]),
        "cf": ((outputs["f_cf_user"][0], run(outputs[teacher.system][1])), outputs["f_item"]),
        "teacher": (outputs[teacher.system], _own(teacher)),
    }
    towers["blend"] = _blended(*towers["llm"], *towers["teacher"], blend)
    _write_parity(folder, differences, towers, tolerance)
    return item_vectors, {tower: actual for tower, ((_, actual), _) in towers.items() if tower in ITEMS}


def _blended(users: Both, items: Both, seen: Both, own: Both, blend: Blend) -> tuple[Both, Both]:
    """User and item vectors of the tower `blend`, from those of `llm` and `teacher`."""
    return (
        (blend.users(users[0], seen[0]), blend.users(users[1], seen[1])),
        (np.hstack([items[0], own[0]]), np.hstack([items[1], own[1]])),
    )


def _in_order(inputs: list[Tensor], lengths: np.ndarray, model: LLMSRec) -> Tensor:
    """What `_inputs_of` collected of rows of these lengths, in the rows' order and not in that of the batches."""
    batches = token_batches(lengths, model.batch_tokens())
    return torch.cat(inputs)[np.argsort(np.concatenate([*batches]))]


def _some(sequences: Sequences, users: int) -> np.ndarray:
    """Numbers of so many users at most, evenly over all."""
    return np.unique(np.linspace(1, sequences.users, min(users, sequences.users)).round().astype(np.int64))


def _of_teacher(teacher: Teacher, sequences: Sequences, chosen: np.ndarray) -> Cases:
    return {teacher.system: (Last(teacher), torch.from_numpy(sequences.last(teacher.max_length)[chosen]))}


def _own(teacher: Teacher) -> Both:
    """The teacher's item vectors, which are stored and not computed."""
    vectors = teacher.item_vectors().detach()[1:].numpy()
    return vectors, vectors


def _export(folder: Path, cases: Cases, tolerance: float) -> tuple[dict[str, Both], dict[str, float]]:
    """Write each module to onnx/<name>.onnx; its outputs for its inputs, and how far the two are apart."""
    outputs, differences = {}, {}
    cases = {name: (deepcopy(module).cpu().eval(), inputs) for name, (module, inputs) in cases.items()}
    onnx.export({name: (module, inputs[:2]) for name, (module, inputs) in cases.items()}, folder / "onnx")
    for name, (module, inputs) in cases.items():
        expected, actual, differences[name] = onnx.compare(module, folder / "onnx" / f"{name}.onnx", inputs)
        outputs[name] = expected, actual
        if not differences[name] <= tolerance:
            raise DataError(
                f"{name}: torch and ONNX Runtime differ by {differences[name]:.1e}, more than export.tolerance "
                f"{tolerance:g}. Nothing was exported; do not serve this model before the cause is known."
            )
    return outputs, differences


def _write_parity(
    folder: Path, differences: dict[str, float], towers: dict[str, tuple[Both, Both]], tolerance: float
) -> None:
    """Compare the top 10 of each tower, by its user and item vectors, and write parity.json."""
    tops = {}
    for tower, vectors in towers.items():
        expected, actual = zip(*vectors, strict=True)
        tops[tower] = onnx.same_top(expected, actual, tolerance)
        if tops[tower]["same"] < tops[tower]["users"]:
            raise DataError(
                f"tower {tower}: {tops[tower]['users'] - tops[tower]['same']} of {tops[tower]['users']} users get "
                "another top 10 from ONNX Runtime than from torch. Nothing was exported."
            )
    rounded = {name: float(f"{value:.1e}") for name, value in differences.items()}
    write_json(folder / "parity.json", {"largest_difference": rounded, "tolerance": tolerance, "top_10": tops})


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
    shared = _of_any(model.teacher, repeats)
    return {
        "format": FORMAT,
        "backbone": config["backbone"],
        "blend": config["blend"],
        "data": config["data"],
        "distilled": config["model"]["distill"],
        "prompts": asdict(model.prompts.settings),
        "start": config.get("start"),
        **shared,
        "shapes": shared["shapes"] | {"d_llm": len(model.user_out), "d_prime": config["model"]["d_prime"]},
    }


def _index(names: list[str]) -> dict[str, list[str]]:
    """What config.json says of the item vectors that there is an index of; nothing where there is none."""
    return {"index": names} if names else {}


def _of_any(teacher: Teacher, repeats: str) -> dict[str, Any]:
    """What config.json says of every model."""
    first = repeats == "first"
    return {
        "teacher": {"system": teacher.system} | teacher.config,
        "protocol": {
            "score": "dot product of user and item vector",
            "history": f"by timestamp, ties in the order given, {'the first of' if first else 'all'} repeats kept",
            "excluded": "items of the history" if first else "nothing: items of the history are recommended again",
            "repeats": repeats,
        },
        "shapes": {
            "items": len(teacher.item_vectors()) - 1,
            "max_length": teacher.max_length,
            "d": teacher.item_vectors().shape[1],
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
