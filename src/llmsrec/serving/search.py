"""The items that are best for a user vector: every item by its inner product, the best first."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

Best = tuple[np.ndarray, np.ndarray]  # `[<= k]` indices of items, best first, and their scores


class Search(Protocol):
    """What ranks the items of a tower.

    Attributes:
        columns: `[d, I]` float32, the items' vectors.
    """

    columns: np.ndarray

    def best(self, vectors: np.ndarray, k: int, exclude: Sequence[np.ndarray]) -> list[Best]:
        """The `k` items with the highest scores for each of `[B, d]` vectors; fewer where fewer are left.

        Args:
            exclude: for each vector the indices of items that are left out; one that comes twice changes nothing.
        """
        ...


class Exact:
    """The inner product with the vector of every item.

    Args:
        columns: `[d, I]` float32, the items' vectors.
        last: `[I]` mask of items that come behind all others, whatever their scores: those that nobody could show.
    """

    def __init__(self, columns: np.ndarray, last: np.ndarray) -> None:
        self.columns, self._last = columns, last

    def best(self, vectors: np.ndarray, k: int, exclude: Sequence[np.ndarray]) -> list[Best]:
        """See `Search`; ties by index, so always the same."""
        scores = vectors @ self.columns
        ranked = [top(row, k, out, self._last) for row, out in zip(scores, exclude, strict=True)]
        return [(indices, row[indices]) for indices, row in zip(ranked, scores, strict=True)]


class Sum:
    """The sum of two searches' scores, for vectors that stand behind each other (`evaluation.blend`), of every item.

    Attributes:
        columns: `[d, I]`, the first's.
    """

    def __init__(self, first: Search, second: Search, last: np.ndarray) -> None:
        self.columns, self._second, self._last = first.columns, second.columns, last

    def best(self, vectors: np.ndarray, k: int, exclude: Sequence[np.ndarray]) -> list[Best]:
        """See `Search`; ties by index."""
        scores = self._both(vectors).sum(axis=0)
        ranked = [top(row, k, out, self._last) for row, out in zip(scores, exclude, strict=True)]
        return [(indices, row[indices]) for indices, row in zip(ranked, scores, strict=True)]

    def shares(self, vector: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """`[2, n]` the two scores of some items for a user vector."""
        return self._both(vector[None])[:, 0, indices]

    def _both(self, vectors: np.ndarray) -> np.ndarray:
        """`[2, B, I]`."""
        of_first, of_second = np.split(vectors, [len(self.columns)], axis=1)
        scores = np.empty((2, len(vectors), self.columns.shape[1]), dtype=np.float32)
        scores[0], scores[1] = of_first @ self.columns, of_second @ self._second
        return scores


def top(scores: np.ndarray, k: int, exclude: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Indices of the `k` highest of `[I]` scores but for `exclude`, best first; ties by index, so always the same.

    Args:
        last: `[I]` mask of items that come behind all others, see `Exact`.
    """
    eligible = np.ones(len(scores), dtype=bool)
    eligible[exclude] = False
    best = _highest(scores, k, np.flatnonzero(eligible & ~last))
    return np.concatenate([best, _highest(scores, k - len(best), np.flatnonzero(eligible & last))])


def _highest(scores: np.ndarray, k: int, indices: np.ndarray) -> np.ndarray:
    if 0 < k < len(indices):
        values = scores[indices]
        indices = indices[values >= np.partition(values, -k)[-k]]
    return indices[np.argsort(-scores[indices], kind="stable")][:k]
