"""The best items of a catalogue that is too long to multiply a user vector with all of it: an inverted file.

Item vectors lie in cells around centroids (k-means), each number in one byte (FAISS: `IVF,SQ8`). A search reads the
cells that are nearest to a user vector, and scores what it has found there again with the float32 vectors: so a score
is always the exact one, and only which items are scored at all is approximate. `llmsrec.export.index` makes the file,
and chooses how many cells are read by what that finds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmsrec.errors import DataError
from llmsrec.serving.search import Best, Exact, top

OVER = 4  # times `k`: so many candidates are scored again, as those of one byte a number are not quite in order
MOST = 1_000  # the largest `k` that is looked for in cells
SPARED = 1_000  # items that may be left out of what is found in cells: a history, a list of blocked ids
PART = 8  # where no more than this part of the items is left, each of them is scored: else that takes longer than all
RECALLED = 10  # best items whose recall is told: `recall_10` in parity.json and in the evidence of added items
NONE = -1  # FAISS's id for want of a candidate


class Index:
    """Cells over the vectors of the items that have a title, and all vectors beside them.

    Attributes:
        columns: `[d, I]` float32, see `Exact`; a view.
        cells: of FAISS; its ids are indices of items.

    Args:
        cells: FAISS's inverted file.
        rows: `[I, d]` float32, the items' vectors.
        last: `[I]` mask of items that come behind all others, see `Exact`; these are in no cell.
    """

    def __init__(self, cells: Any, rows: np.ndarray, last: np.ndarray) -> None:
        self.cells, self.columns = cells, rows.T
        self._rows, self._last = rows, last
        self._exact = Exact(self.columns, last)

    @classmethod
    def read(cls, path: Path, rows: np.ndarray, last: np.ndarray) -> "Index":
        """The index of a bundle, which then runs on one thread, as ONNX models do.

        Raises:
            DataError: it cannot be read, is of other vectors, or FAISS is not installed.
        """
        try:
            import faiss
        except ModuleNotFoundError as error:
            raise DataError(
                f"{path}: this version has so many items that an index searches them, and {error.name}, which reads "
                "it, is not installed here; `pip install faiss-cpu`."
            ) from error
        faiss.omp_set_num_threads(1)
        try:
            cells = faiss.read_index(str(path))
        except RuntimeError as error:
            raise DataError(f"{path} is not an index; export the model again (`dvc repro export`).") from error
        expected = (rows.shape[1], len(rows) - int(last.sum()))
        if not isinstance(cells, faiss.IndexIVF) or (cells.d, cells.ntotal) != expected:
            raise DataError(
                f"{path} is of {cells.ntotal:,} vectors of {cells.d} numbers, and the bundle has {expected[1]:,} of "
                f"{expected[0]}; export the model again (`dvc repro export`)."
            )
        return cls(cells, rows, last)

    def best(self, vectors: np.ndarray, k: int, exclude: Sequence[np.ndarray]) -> list[Best]:
        """See `Search`; each as if it were alone.

        All items are scored for a large `k`, where cells hold too few, and where more than SPARED items are left out:
        those of a filter may lie in no cell that is near.
        """
        return [self._best(vector, k, np.unique(out)) for vector, out in zip(vectors, exclude, strict=True)]

    def _best(self, vector: np.ndarray, k: int, exclude: np.ndarray) -> Best:
        if PART * (len(self._rows) - len(exclude)) <= len(self._rows):
            return self._among(np.delete(np.arange(len(self._rows)), exclude), vector, k)
        if k <= MOST and len(exclude) <= SPARED:
            _, (nearest,) = self.cells.search(vector[None], OVER * k + len(exclude))
            candidates = np.setdiff1d(nearest, np.append(exclude, NONE))
            if len(candidates) >= k:
                return self._among(candidates, vector, k)
        return self._exact.best(vector[None], k, [exclude])[0]

    def _among(self, indices: np.ndarray, vector: np.ndarray, k: int) -> Best:
        """The best of some items, which are given in ascending order."""
        scores = self._rows[indices] @ vector
        best = top(scores, k, np.empty(0, dtype=np.int64), self._last[indices])
        return indices[best], scores[best]

    def truth(self, vectors: np.ndarray, k: int) -> np.ndarray:
        """`[n, k]` indices of the best items by the exact product, in no order, for `[n, d]` vectors."""
        import faiss

        titled = np.flatnonzero(~self._last)
        rows = self._rows if len(titled) == len(self._rows) else self._rows[titled]
        return titled[faiss.knn(vectors, rows, k, metric=faiss.METRIC_INNER_PRODUCT)[1]]

    def recall(self, vectors: np.ndarray, truth: np.ndarray) -> float:
        """The mean share of the best items, as `truth` gives them, that are retrieved for `[n, d]` vectors."""
        retrieved = self.best(vectors, truth.shape[1], [np.empty(0, dtype=np.int64)] * len(vectors))
        return float(np.mean([np.isin(row, best).mean() for row, (best, _) in zip(truth, retrieved, strict=True)]))
