"""Ranks of all models made into what people read: metrics, comparisons with intervals, and a table."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmsrec.errors import DataError
from llmsrec.evaluation.metrics import per_user, summary
from llmsrec.evaluation.names import HEADLINE, MODELS, OURS, PROTOCOLS, meaning, metrics, sliced
from llmsrec.evaluation.significance import LEVEL, Bootstrap
from llmsrec.evaluation.vectors import mean_cosine, mean_distance
from llmsrec.files import atomic

Ranks = dict[str, dict[str, dict[str, np.ndarray]]]  # model -> split -> protocol -> [n] 0-based ranks of its users
Slices = dict[str, np.ndarray]  # name -> [n] bool: the users of test that belong to it


def write_ranks(path: Path, ranks: Ranks, users: dict[str, np.ndarray] | None = None) -> None:
    """Write `user_id, model, split, protocol, rank` rows, the users of each combination one after the other.

    Args:
        users: split -> `[n]` ids of its users, in the order of the ranks; None is 1..n.
    """
    frames = [
        pl.DataFrame({"user_id": _ids(len(rank), users[split] if users else None), "rank": rank}).with_columns(
            model=pl.lit(model), split=pl.lit(split), protocol=pl.lit(protocol)
        )
        for model, splits in ranks.items()
        for split, protocols in splits.items()
        for protocol, rank in protocols.items()
    ]
    with atomic(path) as temporary:
        pl.concat(frames).select("user_id", "model", "split", "protocol", "rank").write_parquet(temporary)


def write_slices(path: Path, slices: Slices, users: np.ndarray | None = None) -> None:
    """Write a row for each user of test (None: 1..n): `user_id`, and a bool for each slice, in `slices`' order."""
    count = len(next(iter(slices.values())))
    with atomic(path) as temporary:
        pl.DataFrame({"user_id": _ids(count, users), **slices}).write_parquet(temporary)


def _ids(count: int, users: np.ndarray | None) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.int32) if users is None else users.astype(np.int32)


def evaluation(
    ranks: Ranks,
    slices: Slices,
    user_vectors: dict[str, dict[str, float]],
    groups: dict[str, dict[str, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """metrics/evaluation.json: model -> split -> protocol -> metric and, on test, -> slice -> metric.

    A slice without users is left out. What `describe` said of a model's vectors goes to model -> user_vectors.

    Args:
        groups: name (`tower_cf`) -> protocol -> `[U]` other ranks of LLM-SRec on test, which stand beside the slices.
    """
    figures: dict[str, Any] = {}
    for model, splits in ranks.items():
        for split, protocols in splits.items():
            for protocol, rank in protocols.items():
                of_all: dict[str, Any] = dict(summary(rank, metrics(protocol)))
                of_slices = HEADLINE if protocol in PROTOCOLS else (sliced(protocol),)
                if split == "test":
                    of_all |= {name: summary(rank[users], of_slices) for name, users in slices.items() if users.any()}
                figures.setdefault(model, {}).setdefault(split, {})[protocol] = of_all
    for name, protocols in (groups or {}).items():
        for protocol, rank in protocols.items():
            figures["llm_srec"]["test"][protocol][name] = summary(rank, HEADLINE)
    for model, described in user_vectors.items():
        figures[model]["user_vectors"] = described
    return figures


def describe(original: np.ndarray, shuffled: np.ndarray, seed: int) -> dict[str, float]:
    """What a model's `[U, d]` user vectors of test and test_shuffled look like.

    Returns:
        `cosine_shuffled`, each user's vectors against each other (paper, Sec. 2.3.3); `distance` between users (paper,
        Table 13) and `distance_users`, how many of them it is measured on (`mean_distance`; not for one user alone).
    """
    distance, cosine = mean_distance(original, seed), mean_cosine(original, shuffled)
    figures = {} if cosine is None else {"cosine_shuffled": cosine}
    return figures if distance is None else {**figures, "distance": distance[0], "distance_users": distance[1]}


def described(models: dict[str, dict[str, np.ndarray]], seed: int) -> dict[str, dict[str, float]]:
    """`describe` of each model, by its vectors of `test` and `test_shuffled`."""
    return {model: describe(of["test"], of["test_shuffled"], seed) for model, of in models.items()}


def comparison(ranks: Ranks, slices: Slices, bootstrap: Bootstrap, ours: str = OURS) -> dict[str, Any]:
    """reports/comparison.json: how sure the differences between models, and between original and shuffled, are.

    Args:
        ranks: of `ours` and others, on test and test_shuffled.
        slices: of test's users.
        bootstrap: how intervals are made.
        ours: the model that it is about.

    Returns:
        `interval` (level, resamples, seed) and `users` (in each slice). Below protocol -> metric and protocol ->
        slice -> metric: `means` (model -> split: mean, low, high), `differences` (<ours>_minus_<model>: difference,
        low, high, relative) and `shuffle` (model: the same of test_shuffled minus test).
    """
    own = ranks[ours]["test"]
    users = {"all": len(next(iter(own.values())))} | {name: int(members.sum()) for name, members in slices.items()}
    return {
        "interval": {"level": LEVEL, **asdict(bootstrap)},
        "users": users,
        "means": {
            model: {split: _measure(bootstrap.mean, slices, splits[split]) for split in ("test", "test_shuffled")}
            for model, splits in ranks.items()
        },
        "differences": {
            f"{ours}_minus_{model}": _measure(bootstrap.difference, slices, own, splits["test"])
            for model, splits in ranks.items()
            if model != ours
        },
        "shuffle": {
            model: _measure(bootstrap.difference, slices, splits["test_shuffled"], splits["test"])
            for model, splits in ranks.items()
        },
    }


def _measure(statistic: Callable[..., dict[str, float]], slices: Slices, *sides: dict[str, np.ndarray]) -> Any:
    """`statistic` of the per-user metrics of one or two models: protocol -> metric, and -> slice -> metric."""

    def metrics(protocol: str, users: Any) -> dict[str, Any]:
        return {name: statistic(*(per_user(ranks[protocol][users], name) for ranks in sides)) for name in HEADLINE}

    chosen = {name: users for name, users in slices.items() if users.any()}
    return {
        protocol: metrics(protocol, slice(None)) | {name: metrics(protocol, users) for name, users in chosen.items()}
        for protocol in sides[0]
    }


def table(evaluation: dict[str, Any], negatives: int) -> str:
    """The terminal's table of what `evaluation` returned: each model's test metrics, and what a shuffle changes.

    Args:
        negatives: of uni99, to be named below the table.

    Raises:
        DataError: the metrics are not all there.
    """
    protocols = tuple(PROTOCOLS)
    lines = [
        f"{'test':<12}" + "".join(f"{protocol:^30}" for protocol in protocols).rstrip(),
        f"{'':<12}" + f"{'NDCG@10':>10}{'HR@10':>9}{'shuffled':>11}" * len(protocols),
    ]
    try:
        for model, splits in sorted(evaluation.items(), key=lambda entry: list(MODELS).index(entry[0])):
            cells = ""
            for protocol in protocols:
                original, shuffled = splits["test"][protocol], splits["test_shuffled"][protocol]
                change = shuffled["ndcg_10"] / original["ndcg_10"] - 1 if original["ndcg_10"] else 0.0
                cells += f"{original['ndcg_10']:>10.4f}{original['hr_10']:>9.4f}{change:>+11.1%}"
            lines.append(f"{MODELS[model]:<12}{cells}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"metrics/evaluation.json lacks {error}; run `dvc repro evaluate`, or `dvc checkout` to bring it back."
        ) from error
    uni99, full = (meaning(protocol, negatives) for protocol in protocols)
    lines.append(f"{uni99.replace('among', 'ranked among')}; {full}; shuffled: change of NDCG@10")
    return "\n".join(lines)
