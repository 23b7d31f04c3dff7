"""A bundle: the folder that holds a whole recommender, as export writes it and serving reads it.

    manifest.json        sha256 of each file below, and one digest over them
    config.json          format, shapes, prompt settings, how the backbone is loaded
    items.parquet        item_id, parent_asin, title, count (training events: the popularity fallback)
    vectors.safetensors  item_vectors [I + 1, d'], item_embeddings [I + 1, d], user_out [d_llm], item_out [d_llm]
    onnx/                f_item, f_user, f_cf_user, f_I, sasrec (and f_U where the prompt holds the user representation)
    backbone/            backbone.json: hub id and commit, or the model's own files beside it
    adapter.safetensors  LoRA tensors, if the backbone was fine-tuned
    parity.json          how far ONNX Runtime and torch were apart when the bundle was made
    code/llmsrec/        the modules that answer requests

Reading needs numpy, polars and ONNX Runtime; torch is for the `llm` tower alone.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import polars as pl
from safetensors.numpy import load_file

from llmsrec.errors import DataError
from llmsrec.files import read_json, sha256

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, every file of which is as it was written.

    Attributes:
        folder: where it lies.
        config: config.json.
        items: items.parquet, rows in the order of item ids 1..I.
        tensors: vectors.safetensors.
    """

    folder: Path
    config: dict[str, Any]
    items: pl.DataFrame
    tensors: dict[str, np.ndarray]

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Open and verify.

        Raises:
            DataError: not a bundle, another format, a file that is missing, altered or not the bundle's.
        """
        verify(folder)
        config = read_json(folder / "config.json")
        if config["format"] != FORMAT:
            raise DataError(
                f"{folder} is a bundle of format {config['format']}, and this code reads format {FORMAT}; use the code "
                "in its own code/ folder, or export the model again (`dvc repro export`)."
            )
        items = pl.read_parquet(folder / "items.parquet")
        return cls(folder, config, items, load_file(folder / "vectors.safetensors"))

    def session(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        """onnx/<name>.onnx as a function of one batch.

        One thread: the models are small, a service answers several requests at once, and a container may own less
        than the machine's cores.
        """
        return session(self.folder / "onnx" / f"{name}.onnx")


def session(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX file with one input and one output, as a function."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    running = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = running.get_inputs()[0].name
    return lambda batch: running.run(None, {name: batch})[0]


def seal(folder: Path) -> str:
    """Write manifest.json over all files of a bundle and return the bundle's digest."""
    files = {name: sha256(folder / name) for name in _names(folder)}
    digest = _digest(files)
    text = json.dumps({"bundle_sha256": digest, "files": files}, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return digest


def verify(folder: Path) -> str:
    """Compare a bundle with its manifest and return its digest.

    Raises:
        DataError: there is no manifest, or a file is missing, altered or not listed; the first is named.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder} holds no {MANIFEST}, so it is not a bundle; `dvc repro export` writes models/bundle."
        )
    manifest, remedy = read_json(folder / MANIFEST), "Take the bundle from its source again, or export it anew."
    if not (isinstance(manifest, dict) and isinstance(manifest.get("files"), dict)):
        raise DataError(f"{folder / MANIFEST} is not a manifest. {remedy}")
    listed, found = manifest["files"], _names(folder)
    for name in sorted({*listed, *found}):
        if name not in found:
            raise DataError(f"{folder}: {name} is in {MANIFEST} but not in the folder. {remedy}")
        if name not in listed:
            raise DataError(f"{folder}: {name} is in the folder but not in {MANIFEST}. {remedy}")
        if sha256(folder / name) != listed[name]:
            raise DataError(f"{folder}: {name} is not the file that {MANIFEST} describes. {remedy}")
    if _digest(listed) != manifest.get("bundle_sha256"):
        raise DataError(f"{folder}: {MANIFEST} does not match its own bundle_sha256. {remedy}")
    return manifest["bundle_sha256"]


def _names(folder: Path) -> list[str]:
    """Relative names of a bundle's files, sorted; bytecode that Python wrote beside code/ does not count."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(name for name in (path.relative_to(folder).as_posix() for path in files) if name != MANIFEST)


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
