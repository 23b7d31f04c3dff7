"""Raw reviews to interactions: first of repeats, a sample of users, the k-core, dense ids.

Strings become integer codes as they are read, so that millions of reviews fit in memory; the rest is arithmetic on
arrays. Which code a string gets is left to chance; the ids that are written follow the strings' order.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmsrec.data.titles import UNTITLED, clean, plain
from llmsrec.errors import DataError
from llmsrec.files import atomic, sha256, write_json

TIE_RULE = "events by timestamp, equal times in the order of the raw lines; the first of a user's repeats of an item"
LEAST_CORE = 3  # a user's training, validation and test event
ID_RULE = "1, 2, 3, ... in ascending byte order of the raw ids that are left"


@dataclass(frozen=True)
class Events:
    """Events in their order (time, then line), with strings as codes.

    Attributes:
        users, items: `[N]` int32 codes, places in the tables below.
        timestamps: `[N]` int64, ms.
        user_ids, item_ids: the raw ids that the codes stand for.
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    user_ids: pl.Series
    item_ids: pl.Series

    def where(self, keep: np.ndarray) -> "Events":
        """The events of a mask."""
        return Events(self.users[keep], self.items[keep], self.timestamps[keep], self.user_ids, self.item_ids)

    def counts(self) -> dict[str, int]:
        """Users, items and events that are left."""
        return {
            "users": int(np.count_nonzero(np.bincount(self.users))),
            "items": int(np.count_nonzero(np.bincount(self.items))),
            "events": len(self.users),
        }


def filter_reviews(raw: Path, out: Path, core: int, user_fraction: float, seed: int) -> dict[str, Any]:
    """Write `out`/interactions.parquet, items.parquet, users.parquet and manifest.json, and return the manifest.

    Raises:
        DataError: nothing is left; the message has the counts after each step.
    """
    events = read(raw / "reviews.parquet")
    steps = [{"step": "raw", **events.counts()}]
    events = events.where(first_of_repeats(events.users, events.items))
    steps.append({"step": "first of repeats", **events.counts()})
    if user_fraction < 1:
        events = events.where(sample_users(events.users, events.user_ids, user_fraction, seed))
        steps.append({"step": f"user_fraction {user_fraction}", **events.counts()})
    before = events
    for number, keep in enumerate(core_rounds(events.users, events.items, core), start=1):
        events = events.where(keep)
        steps.append({"step": f"{core}-core round {number}", **events.counts()})
    if len(events.users) == 0:
        told = "; ".join(f"{s['step']}: {s['users']} users, {s['items']} items, {s['events']} events" for s in steps)
        raise DataError(
            f"{raw / 'reviews.parquet'}: no event is left of data.core {core} ({told}). "
            f"{_remedy(before, core, user_fraction)}"
        )
    frames = tables(events, pl.scan_parquet(raw / "items.parquet"))
    for name, frame in frames.items():
        with atomic(out / f"{name}.parquet") as temporary:
            frame.write_parquet(temporary)
    manifest = {
        "steps": steps,
        "items_with_title": int((frames["items"]["title"] != UNTITLED).sum()),
        "core": core,
        "user_fraction": user_fraction,
        "seed": seed,
        "ties": TIE_RULE,
        "ids": ID_RULE,
        "outputs": {f"{name}.parquet": sha256(out / f"{name}.parquet") for name in frames},
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def read(reviews: Path) -> Events:
    """All events, sorted by time, then line of the raw file."""
    tables = {"user_id": pl.Categories.random(), "parent_asin": pl.Categories.random()}
    codes = [
        pl.col(name).cast(pl.Categorical(table)).to_physical().cast(pl.Int32).alias(name)
        for name, table in tables.items()
    ]
    # polars encodes the two columns side by side, and lets go of the strings chunk by chunk
    frame = pl.scan_parquet(reviews).select(*codes, "timestamp").sort("timestamp", maintain_order=True).collect()
    users, items, timestamps = (frame[name].to_numpy() for name in frame.columns)
    return Events(users, items, timestamps, *(table.to_series() for table in tables.values()))


def sample_users(users: np.ndarray, user_ids: pl.Series, fraction: float, seed: int) -> np.ndarray:
    """Mask of the events of a random `fraction` of users, at least one.

    It depends on the set of ids and the seed, not on the order of lines.
    """
    codes = user_ids.arg_sort().to_numpy()
    drawn = np.random.default_rng(seed).permutation(len(codes))[: max(1, round(fraction * len(codes)))]
    chosen = np.zeros(len(codes), dtype=bool)
    chosen[codes[drawn]] = True
    return chosen[users]


def first_of_repeats(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Mask of the first event of each (user, item) pair."""
    pairs = users.astype(np.int64) << 32 | items
    return pl.Series(pairs).is_first_distinct().to_numpy()


def core_rounds(users: np.ndarray, items: np.ndarray, core: int) -> list[np.ndarray]:
    """The rounds of the k-core, each the mask of what stays of the round before.

    A round drops all users and all items with fewer than `core` events; the last one drops nothing.
    """
    rounds = []
    while True:
        # Masks over users and items stay in the processor's cache, their counts would not.
        keep = (np.bincount(users) >= core)[users] & (np.bincount(items) >= core)[items]
        rounds.append(keep)
        if keep.all():
            return rounds
        users, items = users[keep], items[keep]


def _remedy(events: Events, core: int, user_fraction: float) -> str:
    """What leaves an event, where `core` leaves none: the largest core that does, if there is one that can be split."""
    for lower in range(core - 1, LEAST_CORE - 1, -1):
        left = events
        for keep in core_rounds(left.users, left.items, lower):
            left = left.where(keep)
        if len(left.users):
            return "data.core {} leaves {users} users, {items} items, {events} events.".format(lower, **left.counts())
    if user_fraction < 1:
        return f"No lower data.core leaves any; raise data.user_fraction (now {user_fraction})."
    return (
        f"No data.core does, from {LEAST_CORE} on, which a split needs: bring more data, in which users have events "
        f"with {LEAST_CORE} items or more and these items have {LEAST_CORE} users or more."
    )


def tables(events: Events, raw_items: pl.LazyFrame) -> dict[str, pl.DataFrame]:
    """The three tables with dense ids: interactions by user and event, items (with cleaned titles), users."""
    user_of, users = _dense(events.users, events.user_ids, "user_id", "raw_user_id")
    item_of, items = _dense(events.items, events.item_ids, "item_id", "parent_asin")
    catalogue = items.lazy().join(raw_items, on="parent_asin", how="left", maintain_order="left").collect()
    interactions = pl.DataFrame(
        {"user_id": user_of[events.users], "item_id": item_of[events.items], "timestamp": events.timestamps}
    )
    return {
        "interactions": interactions.sort("user_id", maintain_order=True),
        "items": tidy(catalogue),
        "users": users,
    }


def tidy(catalogue: pl.DataFrame) -> pl.DataFrame:
    """`title`, `store` and `categories` as plain text; no store is null, no categories an empty list."""
    names = catalogue.select("item_id", pl.col("categories")).explode("categories")
    names = names.with_columns(plain(names["categories"]).alias("categories")).drop_nulls()
    categories = names.group_by("item_id", maintain_order=True).agg("categories")
    return (
        catalogue.drop("categories")
        .with_columns(clean(catalogue["title"]).alias("title"), plain(catalogue["store"]).alias("store"))
        .join(categories, on="item_id", how="left", maintain_order="left")
        .with_columns(pl.col("categories").fill_null(pl.lit([], pl.List(pl.String))))
    )


def _dense(codes: np.ndarray, raw_ids: pl.Series, name: str, raw_name: str) -> tuple[np.ndarray, pl.DataFrame]:
    """A map from code to dense id (int32), and the table of dense and raw ids."""
    left = np.flatnonzero(np.bincount(codes))
    strings = raw_ids.gather(left)
    order = strings.arg_sort().to_numpy()
    dense = np.arange(1, len(left) + 1, dtype=np.int32)
    id_of = np.zeros(len(raw_ids), dtype=np.int32)
    id_of[left[order]] = dense
    return id_of, pl.DataFrame({name: dense, raw_name: strings.gather(order)})
