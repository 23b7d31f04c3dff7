"""Bootstrap intervals over users: of a mean, and of the paired difference of two means."""

from dataclasses import dataclass

import numpy as np

LEVEL = 95  # percent
CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Bootstrap:
    """95 % percentile intervals over users.

    Attributes:
        resamples: how often n users are drawn with replacement.
        seed: equal seeds give equal intervals.
    """

    resamples: int
    seed: int

    def mean(self, values: np.ndarray) -> dict[str, float]:
        """The mean of a per-user metric with its interval.

        Args:
            values: `[n]` float64, at least one.

        Returns:
            `{"mean", "low", "high"}`.

        Raises:
            ValueError: no users.
        """
        return {"mean": float(np.mean(values)), **self._interval(values)}

    def difference(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
        """The mean of `ours - theirs`, each user with itself, with its interval (paired).

        Args:
            ours: `[n]` float64, at least one; row by row the users of `theirs`.
            theirs: `[n]` float64.

        Returns:
            `{"difference", "low", "high", "relative"}`; `relative` is the difference as a share of the mean of `theirs`
            (-0.05 = 5 % less) and left out where that mean is 0.

        Raises:
            ValueError: no users, or not the same number.
        """
        _require_pairs(ours, theirs)
        change, base = float(np.mean(ours - theirs)), float(np.mean(theirs))
        estimate = {"difference": change, **self._interval(ours - theirs)}
        return estimate if base == 0 else {**estimate, "relative": change / base}

    def change(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
        """The relative change of the mean from `theirs` to `ours`, with its interval (paper, Table 7: change ratio).

        Unlike `difference`'s `relative`, both means vary in the resamples, each user drawn with both of its values.

        Args:
            ours, theirs: see `difference`.

        Returns:
            `{"change", "low", "high"}` (-0.05 = 5 % less); `{}` where the mean of `theirs` is 0.

        Raises:
            ValueError: no users, or not the same number.
        """
        _require_pairs(ours, theirs)
        if len(theirs) and theirs.mean() == 0:
            return {}
        totals = self._resampled(np.stack([ours, theirs], axis=1))
        totals = totals[totals[:, 1] > 0]
        return {"change": float(ours.mean() / theirs.mean() - 1), **_ends(totals[:, 0] / totals[:, 1] - 1)}

    def _interval(self, values: np.ndarray) -> dict[str, float]:
        return _ends(self._resampled(values[:, None])[:, 0])

    def _resampled(self, values: np.ndarray) -> np.ndarray:
        """`[resamples, c]` means of `[n, c]` values, row by row those of one user.

        Ranks take few values, so a resample of n users is drawn as how often each distinct row comes up: a multinomial
        draw, the same in distribution and independent of n. Memory stays near `CHUNK_BYTES`.
        """
        if len(values) == 0:
            raise ValueError("there is no interval for no users; leave an empty slice out")
        distinct, counts = np.unique(values, axis=0, return_counts=True)
        random = np.random.default_rng(self.seed)
        means = np.empty((self.resamples, values.shape[1]))
        rows = max(1, CHUNK_BYTES // (8 * len(distinct)))
        for start in range(0, self.resamples, rows):
            size = min(rows, self.resamples - start)
            draws = random.multinomial(len(values), counts / len(values), size=size)
            means[start : start + size] = draws @ distinct / len(values)
        return means


def _require_pairs(ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(f"paired values have shapes {ours.shape} and {theirs.shape}; pass the same users in both")


def _ends(means: np.ndarray) -> dict[str, float]:
    """Between which two of the resampled means 95 % of them lie."""
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return {"low": float(low), "high": float(high)}
