"""The test users that a version keeps, so that another version can be asked about the very same ones.

Users stay numbers of ranks.parquet, without the raw ids; items are raw ids, as another version numbers its own.
"""

from pathlib import Path

import numpy as np
import polars as pl

from llmsrec.data.held_out import BACK, HeldOut, last, sample
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.evaluation.cases import Cases
from llmsrec.files import atomic

SCHEMA = pl.Schema(
    {
        "user_id": pl.Int32(),
        "history": pl.List(pl.String()),
        "timestamps": pl.List(pl.Int64()),
        "target": pl.String(),
    }
)


def of_data(filtered: Path, most: int, seed: int, test: HeldOut | Cases | None = None) -> pl.DataFrame:
    """The users of the test split: `user_id`, their `history` (parent_asins, in order), its `timestamps`, the `target`.

    Args:
        filtered: data/filtered.
        most: of more users, so many are drawn by `seed`, without repetition; all of fewer.
        test: the users of test; None is leave-last-out, where a user's target is the last event.

    Returns:
        A row a user, ascending by `user_id`.

    Raises:
        DataError: a file is missing.
    """
    interactions, items = filtered / "interactions.parquet", filtered / "items.parquet"
    for path in (interactions, items):
        if not path.is_file():
            raise DataError(f"{path} is not there; `dvc repro filter` writes it.")
    test = test or last(Sequences.read(interactions), BACK["test"])
    rows = sample(len(test.users), most, seed)
    asins = pl.read_parquet(items).sort("item_id")["parent_asin"]
    histories = test.histories.of_users(rows + 1)
    events = pl.DataFrame(
        {
            "row": np.repeat(np.arange(len(rows)), histories.lengths()[1:]),
            "history": asins.gather(histories.items - 1),
            "timestamps": histories.timestamps,
        }
    )
    users = pl.DataFrame({"user_id": test.users[rows], "target": asins.gather(test.targets[rows] - 1)})
    lists = events.group_by("row", maintain_order=True).agg("history", "timestamps").drop("row")
    return users.hstack(lists).select(SCHEMA.names()).cast(SCHEMA)  # type: ignore[arg-type]


def write(reports: Path, filtered: Path, most: int, seed: int, test: HeldOut | Cases | None = None) -> None:
    """Write what `of_data` returns to `reports`/test_users.parquet."""
    users = of_data(filtered, most, seed, test)
    with atomic(reports / "test_users.parquet") as temporary:
        users.write_parquet(temporary, compression="zstd")
