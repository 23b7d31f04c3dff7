"""What a model is asked in validation and test: of which users, what they did before, and what they did next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llmsrec.data.sequences import Sequences

BACK = {"valid": 2, "test": 1}  # leave-last-out: how many events from a user's end the target is


@dataclass(frozen=True)
class HeldOut:
    """The users of valid or of test who have a target there.

    Attributes:
        users: `[n]` their ids, ascending.
        histories: their events before the target; the users are numbered 1..n, in the order of `users`.
        targets: `[n]` item ids.
    """

    users: np.ndarray
    histories: Sequences
    targets: np.ndarray

    def rows(self, at_most: int, seed: int) -> np.ndarray:
        """Numbers of the users from 0, ascending: of all, or of a sample of `at_most` by `seed`."""
        return sample(len(self.users), at_most, seed)


def sample(users: int, at_most: int, seed: int) -> np.ndarray:
    """`[<= at_most]` numbers of users from 0, ascending: of all, or of as many as are drawn, without repetition."""
    if users <= at_most:
        return np.arange(users)
    return np.sort(np.random.default_rng(seed).choice(users, at_most, replace=False))


def read(interactions: Sequences, split: Path, name: Literal["valid", "test"], by: str) -> HeldOut:
    """Valid or test of data/split, with the histories in their true order, also where training shuffled them.

    Args:
        by: split.by. Where it is `time`, a history ends at the target's time: all events before the cut are earlier.

    Raises:
        DataError: the file is missing or of other users.
    """
    return last(interactions, BACK[name]) if by == "last" else after_cut(interactions, split / f"{name}.parquet")


def last(interactions: Sequences, back: int) -> HeldOut:
    """Every user's event at place `back` from the end."""
    targets = interactions.only(interactions.lengths() - back)
    return HeldOut(np.arange(1, interactions.users + 1), interactions.drop_last(back), targets.items)


def after_cut(interactions: Sequences, path: Path) -> HeldOut:
    """The users and targets of a file of a split by time."""
    targets = Sequences.read(path, interactions.users)
    users = np.flatnonzero(targets.lengths())
    times = np.zeros(len(targets.lengths()), dtype=np.int64)
    times[users] = targets.timestamps
    histories = interactions.first(interactions.before(times)).of_users(users)
    return HeldOut(users, histories, targets.items)
