"""All users' events as flat arrays: the form that training, evaluation and prompts share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from llmsrec.errors import DataError
from llmsrec.files import require_parquet

COLUMNS = ["user_id", "item_id", "timestamp"]


@dataclass(frozen=True)
class Sequences:
    """Events of users 1..U, each user's in order, one after the other (CSR).

    Attributes:
        offsets: `[U + 2]` int64; user u owns the events `offsets[u]` up to `offsets[u + 1]`. User 0 owns none.
        items: `[N]` int32 item ids, 1-based.
        timestamps: `[N]` int64, ms since epoch.
    """

    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray

    @classmethod
    def read(cls, path: Path, users: int | None = None) -> "Sequences":
        """Read `user_id, item_id, timestamp` rows, in order within each user, users ascending.

        Args:
            users: U, where some of the users 1..U may have no event; None if each has one.

        Raises:
            DataError: the file is missing or broken, or users are not 1..U in ascending order.
        """
        require_parquet(path, COLUMNS, "`dvc repro` runs the stage that writes it")
        return cls._of(pl.read_parquet(path, columns=COLUMNS), path, 0, users)

    @classmethod
    def blocks(cls, path: Path, events: int) -> Iterator[tuple[int, "Sequences"]]:
        """The same in blocks of about so many events: the number of users before the block, and its users as 1, 2, ...

        Raises:
            DataError: as `read`.
        """
        require_parquet(path, COLUMNS, "`dvc repro` runs the stage that writes it")
        before, rows = 0, pl.DataFrame()
        for batch in pq.ParquetFile(path).iter_batches(events, columns=COLUMNS):
            if rows.height:  # its last user may go on in this batch
                last = pl.col("user_id") == rows["user_id"][-1]
                whole, rest = rows.filter(~last), rows.filter(last)
                if whole.height:
                    block = cls._of(whole, path, before)
                    yield before, block
                    before += block.users
                rows = pl.concat([rest, pl.DataFrame(batch)])
            else:
                rows = pl.DataFrame(batch)
        yield before, cls._of(rows, path, before)

    @classmethod
    def _of(cls, rows: pl.DataFrame, path: Path, before: int, users: int | None = None) -> "Sequences":
        """Sequences of the users from `before` + 1 on."""
        ids = rows["user_id"].to_numpy() - before if rows.height else np.empty(0, dtype=np.int32)
        steps = np.diff(ids, prepend=np.int32(0))
        whole = len(ids) and ids[0] == 1 and steps.max() <= 1 if users is None else not len(ids) or ids[-1] <= users
        if not whole or (steps < 0).any() or (len(ids) and ids[0] < 1):
            raise DataError(
                f"{path}: user_id is not 1, 2, 3, ... in ascending order; `dvc repro -f split` writes it again."
            )
        lengths = np.bincount(ids, minlength=0 if users is None else users + 1)
        return cls(
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items=rows["item_id"].to_numpy().astype(np.int32),
            timestamps=rows["timestamp"].to_numpy().astype(np.int64),
        )

    @property
    def users(self) -> int:
        """The number of users U; they are 1..U."""
        return len(self.offsets) - 2

    def lengths(self) -> np.ndarray:
        """`[U + 1]` events of each user; that of user 0 is 0."""
        return np.diff(self.offsets)

    def preceding(self, users: np.ndarray, events: np.ndarray, length: int) -> np.ndarray:
        """`[n, length]` int64: the items of `users` before `events`, which are places in `items`; right-aligned, 0 is
        padding.
        """
        columns = events[:, None] - np.arange(length, 0, -1)
        real = columns >= self.offsets[users][:, None]
        return np.where(real, self.items[np.maximum(columns, 0)], 0).astype(np.int64)

    def places(self) -> np.ndarray:
        """`[N]` how many of its user's events lie before each."""
        return np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths())

    def of(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """A user's item ids and timestamps, in order."""
        window = slice(self.offsets[user], self.offsets[user + 1])
        return self.items[window], self.timestamps[window]

    def drop_last(self, count: int) -> "Sequences":
        """Every user's events but the last `count`."""
        return self.first(np.maximum(self.lengths() - count, 0))

    def first(self, counts: np.ndarray) -> "Sequences":
        """The first `counts` `[U + 1]` events of each user, at most as many as there are."""
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        keep = np.repeat(self.offsets[:-1] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Sequences(offsets, self.items[keep], self.timestamps[keep])

    def only(self, places: np.ndarray) -> "Sequences":
        """Of each user the event at `places` `[U + 1]`, counted from 0; none where there is no such place."""
        has = (places >= 0) & (places < self.lengths())
        events = self.offsets[:-1][has] + places[has]
        offsets = np.concatenate([[0], np.cumsum(has)]).astype(np.int64)
        return Sequences(offsets, self.items[events], self.timestamps[events])

    def before(self, time: int | np.ndarray) -> np.ndarray:
        """`[U + 1]` how many of each user's events were before a time in ms; one time, or `[U + 1]`, one each."""
        owner = np.repeat(np.arange(len(self.offsets) - 1), self.lengths())
        earlier = self.timestamps < (time if isinstance(time, int) else time[owner])
        return np.bincount(owner[earlier], minlength=len(self.offsets) - 1)

    def of_users(self, users: np.ndarray) -> "Sequences":
        """The events of some users, `[n]` ascending ids, who are 1, 2, ..., n of the result."""
        lengths = np.zeros(len(self.offsets) - 1, dtype=np.int64)
        lengths[users] = self.lengths()[users]
        chosen = self.first(lengths)
        return Sequences(chosen.offsets[np.concatenate([[0], users, [len(lengths)]])], chosen.items, chosen.timestamps)

    def excluded(self, repeats: str) -> "Sequences":
        """What is not recommended to users with these histories (data.repeats): their items, or with `keep` nothing."""
        return self if repeats == "first" else self.first(np.zeros(len(self.offsets) - 1, dtype=np.int64))

    def shuffled(self, seed: int | np.random.Generator) -> "Sequences":
        """Each user's items in random order; the times stay where they are (paper, Sec. 2.1)."""
        owner = np.repeat(np.arange(len(self.offsets) - 1), self.lengths())
        order = np.lexsort((np.random.default_rng(seed).random(len(self.items)), owner))
        return Sequences(self.offsets, self.items[order], self.timestamps)

    def last(self, length: int) -> np.ndarray:
        """`[U + 1, length]` int64: each user's last `length` items, right-aligned, padded with 0 on the left."""
        table = np.zeros((len(self.offsets) - 1, length), dtype=np.int64)
        lengths = self.lengths()
        owner = np.repeat(np.arange(len(lengths)), lengths)
        column = np.arange(len(self.items)) - self.offsets[owner + 1] + length
        table[owner[column >= 0], column[column >= 0]] = self.items[column >= 0]
        return table
