"""NDCG@k and HR@k of 0-based ranks with one relevant item a user (paper, Sec. 4: leave-last-out)."""

import numpy as np
import polars as pl

from llmsrec.evaluation.names import METRICS


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """`[n]` float64: 1 / log2(rank + 2) where the target is among the first k, else 0; the ideal DCG is 1."""
    return np.where(ranks < k, 1 / np.log2(ranks.astype(np.float64) + 2), 0.0)


def hr(ranks: np.ndarray, k: int) -> np.ndarray:
    """`[n]` float64: 1 where the target is among the first k, else 0."""
    return (ranks < k).astype(np.float64)


def per_user(ranks: np.ndarray, metric: str) -> np.ndarray:
    """`[n]` float64: each user's value of a metric such as `ndcg_10`."""
    name, k = metric.split("_")
    return {"ndcg": ndcg, "hr": hr}[name](ranks, int(k))


def of_users(ranks: pl.DataFrame, model: str, split: str, protocol: str, metric: str) -> np.ndarray:
    """`[n]` float64: each user's value of a metric, by user id, from rows like those of `ranks.parquet`."""
    chosen = ranks.filter(model=model, split=split, protocol=protocol).sort("user_id")
    return per_user(chosen["rank"].to_numpy(), metric)


def summary(ranks: np.ndarray, metrics: tuple[str, ...] = METRICS) -> dict[str, float]:
    """Each metric's mean over users; `{}` for no users, as the mean of nothing is not 0."""
    if len(ranks) == 0:
        return {}
    return {metric: float(per_user(ranks, metric).mean()) for metric in metrics}
