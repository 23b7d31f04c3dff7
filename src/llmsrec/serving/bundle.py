"""A bundle: the folder that holds a whole recommender, as export writes it and serving reads it.

    manifest.json        sha256 of each file below, and one digest over them
    config.json          format, shapes, prompt settings, how the backbone is loaded
    items.parquet        item_id, parent_asin, title, count (training events: the popularity fallback), store and
                         categories; bundles from before lack these two
    vectors.safetensors  item_vectors [I + 1, d'], item_embeddings [I + 1, d], user_out [d_llm], item_out [d_llm]; the
                         first T items are those of the training, others were added by title (`llmsrec items add`).
                         Of a teacher that knows titles also title_projection [d_llm, d] and title_bias [d], which make
                         embeddings of text vectors (`engine.text_vectors`)
    onnx/                f_item, f_user, f_cf_user, f_I, the teacher by its name, such as sasrec (and f_U where the
                         prompt holds the user representation)
    backbone/            backbone.json: hub id and commit, or the model's own files beside it
    layers/              the backbone for ONNX Runtime (`serving.on_onnx`), where that gives torch's vectors: its graph,
                         decoder.onnx, whose weights are those in backbone/, layers.json and tokenizer.json
    weights.safetensors  the heads' and the teacher's, for a training that begins from them; older bundles lack it
    index/               item vectors' indexes (`serving.index`), where there are many: item_vectors.faiss and
                         item_embeddings.faiss
    adapter.safetensors  LoRA tensors, if the backbone was fine-tuned
    reference.parquet    users of the training data, for `llmsrec drift`; bundles from before lack it
    parity.json          how far ONNX Runtime and torch were apart when the bundle was made
    code/llmsrec/        the modules that answer requests

A sequential recommender by itself, such as GRU4Rec, has no language model: config.json then lists its one tower
(`towers`), vectors.safetensors holds item_embeddings alone and onnx/ the recommender; backbone/ and weights.safetensors
are not there.

Reading needs numpy, polars and ONNX Runtime; torch is for the `llm` tower of bundles without layers/ alone.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import polars as pl
from safetensors.numpy import load_file

from llmsrec.errors import DataError, RequestError, shown
from llmsrec.files import read_json, tree
from llmsrec.serving import contents

FORMAT = 1
MANIFEST = "manifest.json"


class Model:
    """An ONNX file with one input and one output, as a function of one batch, on one thread.

    Attributes:
        row: the shape of one row of its input.
    """

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (source,) = self._session.get_inputs()
        self._name, self.row = source.name, tuple(source.shape[1:])

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._name: batch})[0]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, every file of which is as it was written.

    Attributes:
        folder: where it lies.
        digest: bundle_sha256 of its manifest.
        config: config.json.
        items: items.parquet, rows in the order of item ids 1..I.
        tensors: vectors.safetensors.
        models: onnx/<name>.onnx by name. They run on one thread: they are small, a service answers several requests at
            once, and a container may own less than the machine's cores.
    """

    folder: Path
    digest: str
    config: dict[str, Any]
    items: pl.DataFrame
    tensors: dict[str, np.ndarray]
    models: dict[str, Model]

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Open and verify: the files, and that what they hold is finite and fits together.

        Raises:
            DataError: not a bundle, another format, a file that is missing, altered or not the bundle's, or contents
                that nothing could be recommended from.
        """
        digest = verify(folder, running=Path(__file__).resolve().is_relative_to(folder.resolve()))
        config = read_json(folder / "config.json")
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            written = shown(config.get("format")) if isinstance(config, dict) else "unknown"
            raise DataError(
                f"{folder} is a bundle of format {written}, and this code reads format {FORMAT}; use the code "
                "in its own code/ folder, or export the model again (`dvc repro export`)."
            )
        items = _read(folder / "items.parquet", pl.read_parquet)
        tensors = _read(folder / "vectors.safetensors", load_file)
        models = {path.stem: _read(path, Model) for path in sorted((folder / "onnx").glob("*.onnx"))}
        opened = cls(folder, digest, config, items, tensors, models)
        contents.check(opened)
        return opened

    @property
    def teacher(self) -> str:
        """Which of `models` is the teacher; SASRec in bundles from before there was a choice."""
        return str(self.config.get("teacher", {}).get("system", "sasrec"))

    @property
    def towers(self) -> tuple[str, ...]:
        """Those that can be asked, first the one that a request gets which names none."""
        if "towers" in self.config:
            return tuple(self.config["towers"])
        towers = ("llm", "cf", "teacher") if self.config["distilled"] else ("llm", "teacher")
        return (*towers, "blend") if "blend" in self.config else towers

    def check_tower(self, tower: str, where: str) -> None:
        """Raise RequestError, in which `where` says what names the tower, for one that cannot be asked."""
        if tower in self.towers:
            return
        if "llm" not in self.towers:
            raise RequestError(
                f"{where} is '{tower}', but this model is {self.teacher} by itself and has no tower but "
                f"'{self.towers[0]}'; ask for that, or name none."
            )
        if tower == "blend":
            raise RequestError(
                f"{where} is 'blend', but this model was trained before towers were blended; ask for "
                f"{' or '.join(repr(own) for own in self.towers)}, or train it again."
            )
        raise RequestError(
            f"{where} is '{tower}', but this model was trained without distillation (`model.distill=false`), so that "
            "tower's users are not in the items' space; ask for 'llm' or 'teacher'."
        )

    @property
    def repeats(self) -> bool:
        """Whether items of a history may be recommended again (data.repeats `keep`); not in bundles from before."""
        return bool(self.config.get("protocol", {}).get("repeats") == "keep")

    @property
    def trained(self) -> int:
        """T: items 1..T are those of the training; the others were added by their titles."""
        return int(self.config["shapes"].get("trained", self.config["shapes"]["items"]))

    @property
    def reads_titles(self) -> bool:
        """Whether the teacher has embeddings of items that it never saw, by their titles (sasrec.items)."""
        return "title_projection" in self.tensors

    def as_trained(self) -> "Bundle":
        """The bundle with the items of its training alone, all of which are scored."""
        count = self.trained
        cut = {name: rows[: count + 1] for name, rows in self.tensors.items() if name in contents.ITEM_TABLES}
        return replace(
            self, config=self.config | {"index": []}, items=self.items.head(count), tensors=self.tensors | cut
        )

    def index(self, name: str) -> Path | None:
        """The file that searches some item vectors of `tensors`; None where all of them are scored."""
        return self.folder / f"index/{name}.faiss" if name in self.config.get("index", []) else None

    @property
    def layers(self) -> Path | None:
        """The folder with the language model's layers for ONNX Runtime; None where torch alone can run them."""
        folder = self.folder / "layers"
        return folder if folder.is_dir() else None

    def stores(self) -> pl.Series:
        """`[I]` each item's store as String, null where it has none, in the order of item ids."""
        return self._catalogue("store")

    def categories(self) -> pl.Series:
        """`[I]` each item's categories as List(String), the widest first, empty where it has none."""
        return self._catalogue("categories").fill_null(pl.Series([[]], dtype=pl.List(pl.String)))

    def _catalogue(self, name: str) -> pl.Series:
        """A column of the catalogue; all null in a bundle from before there was one."""
        if name in self.items.columns:
            return self.items[name]
        return pl.Series(name, [None] * len(self.items), dtype=contents.CATALOGUE[name])


def seal(folder: Path) -> str:
    """Write manifest.json over all files of a bundle and return the bundle's digest."""
    files = tree(folder)
    files.pop(MANIFEST, None)
    digest = _digest(files)
    text = json.dumps({"bundle_sha256": digest, "files": files}, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return digest


def verify(folder: Path, running: bool = False) -> str:
    """Compare a bundle with its manifest and return its digest.

    Args:
        running: this process runs the bundle's own code, so Python may have left bytecode beside it already.

    Raises:
        DataError: there is no manifest, or a file is missing, altered, not listed, a link or bytecode; the first is
            named.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder} holds no {MANIFEST}, so it is not a bundle; `dvc repro export` writes models/bundle."
        )
    files, remedy = tree(folder, bytecode=running), "Take the bundle from its source again, or export it anew."
    del files[MANIFEST]
    manifest = read_json(folder / MANIFEST)
    if not (isinstance(manifest, dict) and isinstance(manifest.get("files"), dict)):
        raise DataError(f"{folder / MANIFEST} is not a manifest. {remedy}")
    listed = manifest["files"]
    for name in sorted({*listed, *files}):
        if name not in files:
            raise DataError(f"{folder}: {name} is in {MANIFEST} but not in the folder. {remedy}")
        if name not in listed:
            raise DataError(f"{folder}: {name} is in the folder but not in {MANIFEST}. {remedy}")
        if files[name] != listed[name]:
            raise DataError(f"{folder}: {name} is not the file that {MANIFEST} describes. {remedy}")
    if _digest(listed) != manifest.get("bundle_sha256"):
        raise DataError(f"{folder}: {MANIFEST} does not match its own bundle_sha256. {remedy}")
    return str(manifest["bundle_sha256"])


def _read(path: Path, reader: Callable[[Any], Any]) -> Any:
    """A file of the bundle. The libraries that read it raise what they like for one that is not of its kind."""
    try:
        return reader(path)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path} cannot be read: {reason}. Export the model again (`dvc repro export`).") from error


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
