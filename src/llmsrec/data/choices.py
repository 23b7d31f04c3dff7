"""uni19: the 20 titles that a model chooses from when it recommends by title; drawn once, stored, the same for all.

They are the titles of the positive and of 19 negatives, in a shuffled order that is stored as well, since a language
model reads them one after the other. No two are equal after `titles.normalised`, and no negative has the title of an
item in the user's history: a title could not say which of two items is meant.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmsrec.data import candidates
from llmsrec.data.candidates import CHUNK, Block
from llmsrec.data.sequences import Sequences
from llmsrec.data.titles import normalised
from llmsrec.errors import DataError
from llmsrec.files import atomic, require_parquet

NEGATIVES = 19
COUNT = NEGATIVES + 1
SPLITS = ("valid", "test")
MORE = "bring more items (more data, or a lower data.core)"

SCHEMA = pa.schema(
    [
        ("user_id", pa.int32()),
        ("split", pa.string()),
        ("item_id", pa.int32()),
        ("negatives", pa.list_(pa.int32())),
        ("place", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Titles:
    """The distinct titles of a catalogue, numbered from 1, and the items that have each.

    Attributes:
        of_item: `[I + 1]` int32, the title of each item; 0 for item 0.
        items: `[I]` int32, all items, those of title 1 first.
        starts, sizes: `[T + 1]` int64, where in `items` each title's items begin, and how many they are.
    """

    of_item: np.ndarray
    items: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, titles: Sequence[str]) -> "Titles":
        """Of the titles of items 1..I.

        Raises:
            DataError: fewer than 20 of them are distinct.
        """
        ranked = normalised(pl.Series(titles, dtype=pl.String)).rank("dense").to_numpy()
        of_item = np.concatenate([[0], ranked]).astype(np.int32)
        distinct = int(of_item.max())
        if distinct < COUNT:
            raise DataError(
                f"the catalogue has {distinct} distinct titles, and a model that recommends by title chooses from "
                f"{COUNT}; {MORE}."
            )
        sizes = np.bincount(of_item, minlength=distinct + 1)
        return cls(of_item, np.argsort(of_item, kind="stable")[1:].astype(np.int32), sizes.cumsum() - sizes - 1, sizes)

    def known(self, histories: Sequences) -> Sequences:
        """Histories of titles instead of items."""
        return Sequences(histories.offsets, self.of_item[histories.items], histories.timestamps)


@dataclass(frozen=True)
class Choices:
    """What `n` users choose from.

    Attributes:
        items: `[n, 20]` int32 item ids in the order in which they are shown.
        places: `[n]` where among them the positive is, 0-based.
    """

    items: np.ndarray
    places: np.ndarray

    @classmethod
    def put_in(cls, positives: np.ndarray, negatives: np.ndarray, places: np.ndarray) -> "Choices":
        """`[n]` positives at their `places` among `[n, m]` negatives."""
        columns = np.arange(negatives.shape[1] + 1)
        before = np.pad(negatives, ((0, 0), (0, 1)))
        after = np.pad(negatives, ((0, 0), (1, 0)))
        items = np.where(columns < places[:, None], before, after)
        items[columns == places[:, None]] = positives
        return cls(items.astype(np.int32), places)

    @property
    def negatives(self) -> np.ndarray:
        """`[n, 19]` the others, in their order."""
        kept = np.arange(self.items.shape[1]) != self.places[:, None]
        return self.items[kept].reshape(len(self.items), -1)

    def rows(self, chosen: np.ndarray) -> "Choices":
        """Some of the users."""
        return Choices(self.items[chosen], self.places[chosen])


def draw(
    titles: Titles,
    known: Sequences,
    users: np.ndarray,
    positives: np.ndarray,
    rngs: Sequence[np.random.Generator],
    before: int = 0,
) -> Choices:
    """What `users` choose from: their positives and 19 items of other titles than those they know.

    Every set of 19 titles is equally likely, and so is each item that has a drawn title.

    Args:
        known: titles that each user knows (`Titles.known`), the positive's among them.
        positives: `[n]` item ids.
        rngs: of the titles, of the items that have them, and of the order. A user takes the same count of numbers from
            each, so that with three of them the result does not depend on how users are cut into calls.
        before: how many users there are before those of `known`, for messages.

    Raises:
        DataError: a user knows all titles but fewer than 19.
    """
    of_titles, of_items, of_order = rngs
    distinct = len(titles.sizes) - 1
    spans = zip(known.offsets[users], known.offsets[users + 1], strict=True)
    left = distinct - np.array([len(np.unique(known.items[start:end])) for start, end in spans])
    if len(left) and left.min() < NEGATIVES:
        raise DataError(
            f"user {users[left.argmin()] + before} has events with items of {distinct - left.min()} of the {distinct} "
            f"distinct titles, so only {left.min()} are left for {NEGATIVES} negatives of uni19; {MORE}."
        )
    drawn = candidates.draw(known, users, distinct, of_titles.random((len(users), NEGATIVES)), before)
    negatives = titles.items[titles.starts[drawn] + (of_items.random(drawn.shape) * titles.sizes[drawn]).astype(int)]
    order = np.argsort(of_order.random((len(users), COUNT)), axis=1)
    items = np.concatenate([positives[:, None], negatives], axis=1)
    return Choices(np.take_along_axis(items, order, axis=1).astype(np.int32), order.argmin(axis=1).astype(np.int32))


def write(path: Path, blocks: Callable[[], Iterator[Block]], titles: Titles, seed: int) -> int:
    """Write `user_id, split, item_id, negatives, place` rows for valid and test, users ascending within each.

    Args:
        blocks: gives all users anew each time it is called.

    Returns:
        How many rows there are.

    Raises:
        DataError: see `draw`; what was at `path` stays.
    """
    rngs = [np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3)]
    count = 0
    with atomic(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for split in SPLITS:
            for block in blocks():
                asked, known = np.flatnonzero(block.parts[split].lengths()), titles.known(block.histories)
                for first in range(0, len(asked), CHUNK):
                    users = asked[first : first + CHUNK]
                    positives = block.parts[split].items[first : first + CHUNK]
                    drawn = draw(titles, known, users, positives, rngs, block.before)
                    offsets = pa.array(np.arange(0, len(users) * NEGATIVES + 1, NEGATIVES, dtype=np.int32))
                    columns = [
                        pa.array(users + block.before, pa.int32()),
                        pa.array([split] * len(users)),
                        pa.array(positives),
                        pa.ListArray.from_arrays(offsets, pa.array(drawn.negatives.ravel())),
                        pa.array(drawn.places),
                    ]
                    writer.write_table(pa.table(columns, schema=SCHEMA))
                    count += len(users)
    return count


def read(path: Path, split: str) -> tuple[np.ndarray, Choices]:
    """The users `[n]`, ascending, and what they choose from in valid or test.

    Raises:
        DataError: the file is missing or broken.
    """
    require_parquet(path, SCHEMA.names, "`dvc repro -f baselines/dvc.yaml:titles` makes it")
    frame = pl.scan_parquet(path).filter(split=split).sort("user_id").collect()
    negatives = frame["negatives"].explode().to_numpy().reshape(len(frame), -1)
    chosen = Choices.put_in(frame["item_id"].to_numpy(), negatives, frame["place"].to_numpy())
    return frame["user_id"].to_numpy(), chosen


def check(path: Path, filtered: Path, split: Path) -> None:
    """See that what is stored at `path` is uni19 of this catalogue and this split.

    Raises:
        DataError: naming the first rule that does not hold, how often, and an example.
    """
    rows = pl.read_parquet(path)
    items = pl.read_parquet(filtered / "items.parquet", columns=["item_id", "title"])
    title = items.select("item_id", normalised(items["title"]).alias("title"))
    stored = pl.read_parquet(split / "candidates.parquet", columns=["user_id", "split", "item_id"])
    expected = stored.join(rows, on=["user_id", "split"], how="full", suffix="_here")
    _refuse(
        expected.filter(pl.col("item_id").ne_missing(pl.col("item_id_here"))).select(
            pl.coalesce("user_id", "user_id_here").alias("user_id"), pl.coalesce("split", "split_here").alias("split")
        ),
        "each target of the split has a list, and no other user has",
        path,
    )
    _refuse(rows.filter(pl.struct("user_id", "split").is_duplicated()), "a user has one list a split", path)
    number = pl.col("negatives").list.len()
    _refuse(rows.filter(number != NEGATIVES), f"a list has {NEGATIVES} negatives", path)
    _refuse(rows.filter(~pl.col("place").is_between(0, NEGATIVES)), "the positive has a place among the 20", path)
    shown = rows.explode("negatives").join(title, left_on="negatives", right_on="item_id", how="left")
    _refuse(shown.filter(pl.col("title").is_null()), "negatives are items of the catalogue", path)
    events = pl.read_parquet(filtered / "interactions.parquet", columns=["user_id", "item_id"])
    seen = events.join(title, on="item_id").select("user_id", "title")
    _refuse(
        shown.join(seen, on=["user_id", "title"], how="semi"), "no negative has a title of the user's history", path
    )
    again = shown.group_by("user_id", "split").agg(pl.col("title").n_unique().alias("titles"))
    _refuse(again.filter(pl.col("titles") < NEGATIVES).sort("user_id"), "no two negatives have one title", path)


def _refuse(broken: pl.DataFrame, rule: str, path: Path) -> None:
    if broken.height:
        user, split = broken.select("user_id", "split").row(0)
        raise DataError(
            f"{path}: {rule}; {broken.height:,} rows break that, the first of user {user} in {split}. The file was "
            "altered or is of other data: run the stage `titles` again (`dvc repro -f baselines/dvc.yaml:titles`)."
        )
