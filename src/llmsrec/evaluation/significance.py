"""Bootstrap intervals over users: of a mean, and of the paired difference of two means."""

import numpy as np

LEVEL = 95  # percent
CHUNK_BYTES = 32 * 2**20


def mean(values: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """The mean of a per-user metric with its 95 % interval (percentile bootstrap).

    Args:
        values: `[n]` float64, at least one.
        resamples: how often n users are drawn with replacement.
        seed: equal seeds give equal intervals.

    Returns:
        `{"mean", "low", "high"}`.

    Raises:
        ValueError: no users.
    """
    low, high = _interval(values, resamples, seed)
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def difference(ours: np.ndarray, theirs: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """The mean of `ours - theirs`, each user with itself, with its 95 % interval (paired percentile bootstrap).

    Args:
        ours: `[n]` float64, at least one; row by row the users of `theirs`.
        theirs: `[n]` float64.
        resamples, seed: see `mean`.

    Returns:
        `{"difference", "low", "high", "relative"}`; `relative` is the difference as a share of the mean of `theirs`
        (-0.05 = 5 % less) and left out where that mean is 0.

    Raises:
        ValueError: no users, or not the same number.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"paired values have shapes {ours.shape} and {theirs.shape}; pass the same users in both")
    low, high = _interval(ours - theirs, resamples, seed)
    change, base = float(np.mean(ours - theirs)), float(np.mean(theirs))
    found = {"difference": change, "low": low, "high": high}
    return found if base == 0 else {**found, "relative": change / base}


def change(ours: np.ndarray, theirs: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """The relative change of the mean from `theirs` to `ours`, with its 95 % interval (paper, Table 7: change ratio).

    Unlike `difference`'s `relative`, both means vary in the resamples, each user drawn with both of its values.

    Args:
        ours, theirs, resamples, seed: see `difference`.

    Returns:
        `{"change", "low", "high"}` (-0.05 = 5 % less); `{}` where the mean of `theirs` is 0.

    Raises:
        ValueError: no users, or not the same number.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"paired values have shapes {ours.shape} and {theirs.shape}; pass the same users in both")
    if len(theirs) and theirs.mean() == 0:
        return {}
    totals = _resampled(np.stack([ours, theirs], axis=1), resamples, seed)
    totals = totals[totals[:, 1] > 0]
    low, high = np.percentile(totals[:, 0] / totals[:, 1] - 1, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return {"change": float(ours.mean() / theirs.mean() - 1), "low": float(low), "high": float(high)}


def _interval(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The percentiles of the resampled means."""
    means = _resampled(values[:, None], resamples, seed)[:, 0]
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def _resampled(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """`[resamples, c]` means of `[n, c]` values, row by row those of one user.

    Ranks take few values, so a resample of n users is drawn as how often each distinct row comes up: a multinomial
    draw, the same in distribution and independent of n. Memory stays near `CHUNK_BYTES`.
    """
    if len(values) == 0:
        raise ValueError("there is no interval for no users; leave an empty slice out")
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    rows = max(1, CHUNK_BYTES // (8 * len(distinct)))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        draws = random.multinomial(len(values), counts / len(values), size=size)
        means[start : start + size] = draws @ distinct / len(values)
    return means
