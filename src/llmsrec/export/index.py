"""Makes the index of a bundle with many items (`llmsrec.serving.index`), and measures what it finds."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from llmsrec.data.titles import UNTITLED
from llmsrec.files import read_json, write_json
from llmsrec.serving.index import RECALLED, Index
from llmsrec.serving.towers import ITEMS

ENOUGH = 0.995  # recall@10 of some users at which no more cells are read; others, of whom it is told, may have less
POINTS, ROUNDS, SEED = 48, 6, 0  # of k-means: vectors a centroid, rounds; more gain less than what more cells cost


def write(
    folder: Path, tensors: dict[str, Tensor], users: dict[str, np.ndarray], catalogue: pl.DataFrame, above: int | None
) -> list[str]:
    """Write index/<name>.faiss of the item vectors that are many, and to parity.json what users find by them.

    Half of the users choose how many cells are read: twice as many until all towers have ENOUGH. The other half are
    those whose recall is written down.

    Args:
        folder: of the bundle.
        tensors: name -> `[I + 1, d]` item vectors, the padding's first; others are not read.
        users: tower -> `[U, d]` vectors of real users.
        catalogue: the bundle's items.
        above: so many items are none too many; None: nothing is written.

    Returns:
        The names of those that there is an index of.
    """
    import faiss

    if above is None or len(catalogue) <= above:
        return []
    titled, measured, names = (catalogue["title"] != UNTITLED).to_numpy(), {}, sorted({ITEMS[tower] for tower in users})
    (folder / "index").mkdir()
    for name in names:
        index = build(tensors[name][1:].numpy(), titled)
        of = {tower: vectors for tower, vectors in users.items() if ITEMS[tower] == name}
        widen(index, [vectors[::2] for vectors in of.values()])
        faiss.write_index(index.cells, str(folder / f"index/{name}.faiss"))
        for tower, vectors in of.items():
            asked = vectors[1::2] if len(vectors) > 1 else vectors
            quality = {"recall_10": index.recall(asked, index.truth(asked, RECALLED)), "users": len(asked)}
            measured[tower] = quality | {"cells": index.cells.nlist, "read": index.cells.nprobe}
    parity = folder / "parity.json"
    write_json(parity, read_json(parity) | {"index": measured})
    return names


def build(rows: np.ndarray, titled: np.ndarray) -> Index:
    """An index of `[I, d]` vectors, which reads one cell."""
    import faiss

    faiss.omp_set_num_threads(1)  # of several, those that have to wait for another process take longer than one
    ids = np.flatnonzero(titled)
    count = max(1, round(2 * math.sqrt(len(ids))))
    cells: Any = faiss.index_factory(rows.shape[1], f"IVF{count},SQ8", faiss.METRIC_INNER_PRODUCT)
    cells.cp.niter, cells.cp.seed = ROUNDS, SEED
    cells.cp.min_points_per_centroid, cells.cp.max_points_per_centroid = 1, POINTS
    some = np.sort(np.random.default_rng(SEED).permutation(ids)[: count * POINTS])
    cells.train(rows[some])
    for part in np.array_split(ids, 1 + len(ids) // 100_000):
        cells.add_with_ids(rows[part], part)
    return Index(cells, rows, ~titled)


def widen(index: Index, users: list[np.ndarray]) -> None:
    """Let it read twice as many cells until the users `[n, d]` of each tower have recall ENOUGH, or all cells."""
    asked = [(vectors, index.truth(vectors, RECALLED)) for vectors in users]
    while index.cells.nprobe < index.cells.nlist and any(index.recall(*pair) < ENOUGH for pair in asked):
        index.cells.nprobe = min(2 * index.cells.nprobe, index.cells.nlist)


def add(source: Path, target: Path, vectors: np.ndarray, first: int) -> None:
    """Write an index with more items, in the cells that there are.

    Args:
        vectors: `[n, d]` of the new ones, all of which have a title.
        first: index of the first of them.
    """
    import faiss

    cells: Any = faiss.read_index(str(source))
    cells.add_with_ids(vectors, np.arange(first, first + len(vectors)))
    faiss.write_index(cells, str(target))
