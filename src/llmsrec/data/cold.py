"""Items that are held out of training, to see how a model ranks what it never saw (data.cold_fraction).

They are drawn before the core and set aside, so that no stage after the filter has them: neither their events nor their
titles nor a number for them. Beside data/filtered's other files two say what was held out:

    cold_items.parquet    item_id (1..C, numbers of their own), parent_asin, title, store, categories
    cold_events.parquet   user_id (of users.parquet), item_id, timestamp: a row for each pair of a user and an item
"""

from pathlib import Path

import numpy as np
import polars as pl

from llmsrec.errors import DataError
from llmsrec.files import atomic

ITEMS, EVENTS = "cold_items.parquet", "cold_events.parquet"


def draw(ids: pl.Series, fraction: float, seed: int) -> np.ndarray:
    """`[I]` mask of a random `fraction` of the items, at least one.

    It depends on the set of ids and the seed, not on which code an item has.
    """
    chosen = np.random.default_rng(seed).permutation(len(ids))[: max(1, round(fraction * len(ids)))]
    mask = np.zeros(len(ids), dtype=bool)
    mask[ids.arg_sort().to_numpy()[chosen]] = True
    return mask


def kept(events: pl.DataFrame, items: int, core: int, fraction: float) -> np.ndarray:
    """`[items]` mask of the held-out items that are asked about: those with `core` events of the users that are left.

    The others would not have been in the catalogue either.

    Args:
        events: `item` codes, of users that are left.

    Raises:
        DataError: there is none.
    """
    mask = np.bincount(events["item"], minlength=items) >= core
    if not mask.any():
        raise DataError(
            f"data.cold_fraction {fraction:g} holds out no item with {core} events (data.core) of the users that are "
            "left; raise it, or set it to 0."
        )
    return mask


def write(out: Path, events: pl.DataFrame, item_of: np.ndarray, catalogue: pl.DataFrame) -> dict[str, int]:
    """Write the two files, and return how many items, users and events there are.

    Args:
        events: `user_id, item, timestamp` by user, then time; `item` is a code.
        item_of: `[codes]` the number of each item; 0 for those that are not asked about.
        catalogue: their rows, ascending by `item_id`.
    """
    numbered = events.with_columns(item_id=pl.Series(item_of[events["item"].to_numpy()]))
    numbered = numbered.filter(pl.col("item_id") > 0).select("user_id", "item_id", "timestamp")
    for name, frame in ((ITEMS, catalogue), (EVENTS, numbered)):
        with atomic(out / name) as temporary:
            frame.write_parquet(temporary)
    return {"items": len(catalogue), "users": numbered["user_id"].n_unique(), "events": len(numbered)}
