"""The paper's Table 7 from per-user ranks: what each loss gives, and what shuffled sequences cost with it."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from llmsrec.evaluation import significance
from llmsrec.evaluation.metrics import per_user
from llmsrec.evaluation.tables import Table

ROWS = {"a": "without distillation and uniformity", "b": "without uniformity", "c": "LLM-SRec"}
READINGS = {"uni99": "among sampled items (uni99)", "full": "among all items (full)"}
METRICS = {"ndcg_10": "NDCG@10", "ndcg_20": "NDCG@20", "hr_10": "HR@10"}
Ranks = dict[tuple[str, str], list[pl.DataFrame]]  # (row, order of training) -> LLM-SRec's ranks, one table a seed


def tables(ranks: Ranks, resamples: int, seed: int) -> list[Table]:
    """Table 7 under both protocols; a row of it that was not run is left out.

    Args:
        ranks: `ranks.parquet` of each run, by row of Table 7 and order (`original`, `shuffled`) of the training
            sequences; all of the same users and candidates. Several seeds are averaged user by user.
        resamples, seed: of the bootstrap (`significance`).
    """
    seeds = max(len(runs) for runs in ranks.values())
    note = f"In brackets: {significance.LEVEL} % bootstrap over users, paired where it is of a change." + (
        f" Mean of {seeds} seeds, ± is their standard deviation." if seeds > 1 else " One seed."
    )
    return [
        Table(f"Test, {title}", ("", *METRICS.values()), list(_rows(ranks, protocol, resamples, seed)), note)
        for protocol, title in READINGS.items()
    ]


def _rows(ranks: Ranks, protocol: str, resamples: int, seed: int) -> Iterator[tuple[str, ...]]:
    def values(row: str, order: str, split: str, metric: str) -> np.ndarray:
        """`[seeds, U]`"""
        runs = [frame.filter(model="llm_srec", split=split, protocol=protocol) for frame in ranks[row, order]]
        return np.stack([per_user(run.sort("user_id")["rank"].to_numpy(), metric) for run in runs])

    def level(found: np.ndarray) -> str:
        one = significance.mean(found.mean(axis=0), resamples, seed)
        spread = f" ± {found.mean(axis=1).std(ddof=1):.4f}" if len(found) > 1 else ""
        return f"{one['mean']:.4f}{spread} ({one['low']:.4f} .. {one['high']:.4f})"

    def change(found: np.ndarray, base: np.ndarray) -> str:
        one = significance.change(found.mean(axis=0), base.mean(axis=0), resamples, seed)
        return f"{one['change']:+.1%} ({one['low']:+.1%} .. {one['high']:+.1%})" if one else "-"

    for row, title in ROWS.items():
        if (row, "original") not in ranks:
            continue
        base = {metric: values(row, "original", "test", metric) for metric in METRICS}
        yield f"({row}) {title}", *map(level, base.values())
        if row != "c" and ("c", "original") in ranks:
            full = (values("c", "original", "test", metric) for metric in METRICS)
            yield "against (c)", *(change(found, whole) for found, whole in zip(base.values(), full, strict=True))
        for label, order, split in (
            ("shuffled inference", "original", "test_shuffled"),
            ("shuffled training", "shuffled", "test"),
        ):
            if (row, order) in ranks:
                found = {metric: values(row, order, split, metric) for metric in METRICS}
                yield label, *map(level, found.values())
                yield "change", *(change(found[metric], base[metric]) for metric in METRICS)
