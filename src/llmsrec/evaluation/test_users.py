"""The test users that a version keeps, so that another version can be asked about the very same ones.

Users stay numbers of ranks.parquet, without the raw ids; items are raw ids, as another version numbers its own.
"""

from pathlib import Path

import numpy as np
import polars as pl

from llmsrec.errors import DataError
from llmsrec.files import atomic

SCHEMA = pl.Schema(
    {
        "user_id": pl.Int32(),
        "history": pl.List(pl.String()),
        "timestamps": pl.List(pl.Int64()),
        "target": pl.String(),
    }
)


def of_data(filtered: Path, most: int, seed: int) -> pl.DataFrame:
    """The users of the test split: `user_id`, their `history` (parent_asins, in order), its `timestamps`, the `target`.

    Args:
        filtered: data/filtered.
        most: of more users, so many are drawn by `seed`, without repetition; all of fewer.

    Returns:
        A row a user, ascending by `user_id`. The target is a user's last event, the history all events before it.

    Raises:
        DataError: a file is missing.
    """
    interactions, items = filtered / "interactions.parquet", filtered / "items.parquet"
    for path in (interactions, items):
        if not path.is_file():
            raise DataError(f"{path} is not there; `dvc repro filter` writes it.")
    users = pl.scan_parquet(interactions).select(pl.col("user_id").unique().sort()).collect()["user_id"]
    if len(users) > most:
        chosen = np.random.default_rng(seed).choice(len(users), size=most, replace=False)
        users = users.gather(np.sort(chosen))
    asins = pl.read_parquet(items).sort("item_id")["parent_asin"]
    events = pl.scan_parquet(interactions).filter(pl.col("user_id").is_in(users.implode())).collect()
    events = events.with_columns(parent_asin=asins.gather(events["item_id"] - 1))
    return (
        events.group_by("user_id", maintain_order=True)
        .agg(
            history=pl.col("parent_asin").slice(0, pl.len() - 1),
            timestamps=pl.col("timestamp").slice(0, pl.len() - 1),
            target=pl.col("parent_asin").last(),
        )
        .cast(SCHEMA)  # type: ignore[arg-type]
    )


def write(reports: Path, filtered: Path, most: int, seed: int) -> None:
    """Write what `of_data` returns to `reports`/test_users.parquet."""
    users = of_data(filtered, most, seed)
    with atomic(reports / "test_users.parquet") as temporary:
        users.write_parquet(temporary, compression="zstd")
