"""All users' events as flat arrays: the form that training, evaluation and prompts share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from llmsrec.errors import DataError


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
    def read(cls, path: Path) -> "Sequences":
        """Read `user_id, item_id, timestamp` rows, in order within each user, users ascending from 1.

        Raises:
            DataError: the file is missing, or users are not 1..U in ascending order.
        """
        if not path.exists():
            raise DataError(f"{path} is not there; run the stage that writes it (`dvc repro`).")
        frame = pl.read_parquet(path, columns=["user_id", "item_id", "timestamp"])
        users = frame["user_id"].to_numpy()
        if len(users) == 0 or users[0] != 1 or not np.isin(np.diff(users), (0, 1)).all():
            raise DataError(
                f"{path}: user_id is not 1, 2, 3, ... in ascending order; `dvc repro -f split` writes it again."
            )
        return cls(
            offsets=np.concatenate([[0, 0], np.cumsum(np.bincount(users)[1:])]).astype(np.int64),
            items=frame["item_id"].to_numpy().astype(np.int32),
            timestamps=frame["timestamp"].to_numpy().astype(np.int64),
        )

    @property
    def users(self) -> int:
        """The number of users U; they are 1..U."""
        return len(self.offsets) - 2

    def lengths(self) -> np.ndarray:
        """`[U + 1]` events of each user; that of user 0 is 0."""
        return np.diff(self.offsets)

    def of(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """A user's item ids and timestamps, in order."""
        window = slice(self.offsets[user], self.offsets[user + 1])
        return self.items[window], self.timestamps[window]

    def drop_last(self, count: int) -> "Sequences":
        """Every user's events but the last `count`: 1 gives the histories of test, 2 those of valid."""
        lengths = np.maximum(self.lengths() - count, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        keep = np.repeat(self.offsets[:-1] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Sequences(offsets, self.items[keep], self.timestamps[keep])

    def shuffled(self, seed: int) -> "Sequences":
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
