"""A bundle with more items: those of another, and new ones whose vectors come from their titles, without training."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from llmsrec.errors import DataError
from llmsrec.export import index, onnx
from llmsrec.export.bundle import write_code
from llmsrec.files import read_json, write_json
from llmsrec.serving.bundle import MANIFEST, Bundle, seal
from llmsrec.serving.contents import CATALOGUE, COLUMNS
from llmsrec.serving.llm_tower import LLMTower
from llmsrec.serving.on_torch import OnTorch

PROBED = 64  # items of the training whose vectors are computed again
ROUGH = 0.05  # what the vectors of a backbone in fewer bits than float32 may differ by


def write(folder: Path, bundle: Bundle, added: pl.DataFrame, version: str) -> str:
    """Write a whole bundle, or nothing: all that `bundle` holds, today's code, and the items of `added` behind its own.

    Heads, tokens and the vectors of `bundle`'s items stay as they are, byte by byte. So does the teacher, but for new
    rows of its item table.

    Args:
        folder: where it shall lie; nothing is there.
        added: `parent_asin, title, store, categories`, none of which `bundle` has.
        version: which version `bundle` is, such as `shop/3`.

    Returns:
        The new bundle's digest.

    Raises:
        DataError: the backbone cannot be loaded, or it does not give items of the training the vectors that they have.
    """
    items = _catalogue(bundle, added)
    titles = items["title"][len(bundle.items) :].to_list()
    tower = LLMTower(bundle, OnTorch(bundle))
    parity = read_json(bundle.folder / "parity.json")
    probed = probe(tower, bundle, parity["tolerance"])
    embeddings = tower.embeddings_of(titles)
    new = {"item_embeddings": embeddings, "item_vectors": tower.of_titles(titles, tower.inputs_of(embeddings))}
    tensors = {name: np.concatenate([bundle.tensors[name], rows]) for name, rows in new.items()}
    shapes = bundle.config["shapes"] | {"items": len(items), "trained": bundle.trained}
    extends = {"version": version, "bundle_sha256": bundle.digest}
    building = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    try:
        shutil.copytree(bundle.folder, building, ignore=shutil.ignore_patterns("code", MANIFEST))
        save_file(bundle.tensors | tensors, building / "vectors.safetensors")
        items.write_parquet(building / "items.parquet")
        write_json(building / "config.json", bundle.config | {"shapes": shapes, "extends": extends})
        write_json(building / "parity.json", parity | {"added": probed})
        table = "item_embeddings"
        onnx.replace(building / f"onnx/{bundle.teacher}.onnx", bundle.tensors[table], tensors[table])
        for name, rows in new.items():
            if path := bundle.index(name):
                index.add(path, building / f"index/{name}.faiss", rows, len(bundle.items))
        write_code(building)
        digest = seal(building)
        Bundle.open(building)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return digest


def probe(tower: LLMTower, bundle: Bundle, tolerance: float) -> dict[str, float]:
    """Give items of the training their vectors again, by the way that new ones get theirs, and compare.

    Args:
        tolerance: largest difference from what `bundle` holds, relative to the largest value where that is above 1; of
            a backbone in fewer bits than float32 `ROUGH`, as products of few bits vary with the machine.

    Returns:
        `items`, `largest_difference`, `tolerance`.

    Raises:
        DataError: they differ by more.
    """
    backbone = bundle.config["backbone"]
    if (backbone["dtype"], backbone["quantization"]) != ("float32", "none"):
        tolerance = ROUGH
    chosen = np.unique(np.linspace(1, bundle.trained, PROBED).round().astype(np.int64))
    expected = bundle.tensors["item_vectors"][chosen]
    worst = float(np.abs(tower.of_items(chosen) - expected).max() / max(1.0, np.abs(expected).max()))
    if not worst <= tolerance:
        raise DataError(
            f"the backbone gives items of the training vectors that differ by {worst:.1e} from those in the bundle, "
            f"more than {tolerance:g}, so new ones would not fit them either; see that it is the backbone of the "
            "training. Nothing was written."
        )
    return {"items": len(chosen), "largest_difference": float(f"{worst:.1e}"), "tolerance": tolerance}


def _catalogue(bundle: Bundle, added: pl.DataFrame) -> pl.DataFrame:
    """`bundle`'s items.parquet with the added rows, of which training had no event."""
    columns = [*COLUMNS, *CATALOGUE]
    known = bundle.items.with_columns(store=bundle.stores(), categories=bundle.categories()).select(columns)
    numbers = pl.int_range(len(known) + 1, len(known) + len(added) + 1)
    return pl.concat([known, added.with_columns(item_id=numbers, count=0).select(columns).cast(known.schema)])
