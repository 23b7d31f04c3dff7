"""How far requests are from a version's training data, each figure beside what chance alone would make of it.

A figure says drift where it is above its limit (`drift` in params.yaml: so much matters) and above what as many users
of the training data would show (so much is no chance). Either alone is wrong: the fewer users, the larger is the PSI of
the very same data, and of a million users a difference that matters to nobody is beyond chance.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl
from scipy.stats import ks_2samp, kstwobign, norm

DISTANCES = ("length", "entropy_cf", "entropy_llm", "entropy_teacher", "overlap")
DRAWS = 2000
SEED = 0


class Limits(Protocol):
    """`drift` of params.yaml."""

    @property
    def false_alarms(self) -> float: ...
    @property
    def popularity(self) -> float: ...
    @property
    def unknown(self) -> float: ...
    @property
    def length(self) -> float: ...
    @property
    def entropy(self) -> float: ...
    @property
    def overlap(self) -> float: ...


@dataclass(frozen=True)
class Figure:
    """One figure of a comparison.

    Attributes:
        name: popularity, unknown, length, entropy_<tower> or overlap.
        value: PSI of popularity, share of unknown items, Kolmogorov-Smirnov distance of the others.
        limit: of params.yaml.
        chance: a value above this is beyond chance.
        before, now: mean of the training data and of the requests, where there is one.
    """

    name: str
    value: float
    limit: float
    chance: float
    before: float | None
    now: float | None

    @property
    def drifts(self) -> bool:
        return self.value > self.limit and self.value > self.chance


def compare(reference: pl.DataFrame, seen: pl.DataFrame, limits: Limits) -> list[Figure]:
    """All figures that both sides have.

    `limits.false_alarms`, the share of stationary requests that may be called drift, is divided by the number of
    figures (Bonferroni).

    Args:
        reference, seen: rows of `reference.measure`.
    """
    distances = [
        name
        for name in DISTANCES
        if name in reference.columns  # bundles from before had fewer
        and reference[name].null_count() < reference.height
        and seen[name].null_count() < seen.height
    ]
    level = limits.false_alarms / (2 + len(distances))
    figures = [_popularity(reference, seen, limits.popularity, level), _unknown(seen, limits.unknown, level)]
    for name in distances:
        a, b = (frame[name].drop_nulls().to_numpy() for frame in (reference, seen))
        limit = getattr(limits, name.partition("_")[0])
        figures.append(Figure(name, *_distance(a, b, limit, level), float(a.mean()), float(b.mean())))
    return figures


def psi(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Population stability index of counts `[..., bins]`: the sum of (q - p) ln(q / p), half an event added to each."""
    p, q = (counts + 0.5 for counts in (before, now))
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    return ((q - p) * np.log(q / p)).sum(axis=-1)


def _popularity(reference: pl.DataFrame, seen: pl.DataFrame, limit: float, level: float) -> Figure:
    """PSI over bins of popularity, of known items; what share is unknown is a figure of its own.

    What chance makes of it: both sides are drawn anew from the reference's users. Users are drawn, not events: those of
    a user belong together. A sum over many users is as good as normal, and is drawn as such.
    """
    before, now = (frame["bins"].to_numpy().astype(np.float64) for frame in (reference, seen))
    now = now[now.sum(axis=1) > 0]
    random, mean, spread = np.random.default_rng(SEED), before.mean(axis=0), np.cov(before, rowvar=False)
    sides = [
        random.multivariate_normal(users * mean, users * spread, size=DRAWS).clip(min=0)
        for users in (len(before), max(1, len(now)))
    ]
    chance = float(np.quantile(psi(*sides), 1 - level))
    return Figure("popularity", float(psi(before.sum(axis=0), now.sum(axis=0))), limit, chance, None, None)


def _unknown(seen: pl.DataFrame, limit: float, level: float) -> Figure:
    """Unknown items of all items. The training data have none, so chance is what puts a share above its limit.

    The standard error is that of a ratio of sums over users.
    """
    unknown, items = (seen[name].to_numpy().astype(np.float64) for name in ("unknown", "length"))
    share = float(unknown.sum() / max(1.0, items.sum()))
    error = float(np.sqrt(((unknown - share * items) ** 2).sum()) / max(1.0, items.sum()))
    return Figure("unknown", share, limit, limit + float(norm.isf(level)) * error, 0.0, share)


def _distance(before: np.ndarray, now: np.ndarray, limit: float, level: float) -> tuple[float, float, float]:
    """Kolmogorov-Smirnov: the value, the limit, and the least value that is beyond chance."""
    result: Any = ks_2samp(before, now, method="asymp")
    n = len(before) * len(now) / (len(before) + len(now))
    return float(result.statistic), limit, float(kstwobign.isf(level) / np.sqrt(n))
