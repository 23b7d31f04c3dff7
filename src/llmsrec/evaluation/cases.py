"""The cases of evaluation: valid, test, and test with each history shuffled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llmsrec.data import candidates, held_out
from llmsrec.data.sequences import Sequences
from llmsrec.evaluation import ranks


@dataclass(frozen=True)
class Cases:
    """The users of a split, and what their target is ranked among.

    Attributes:
        users: `[n]` their ids, ascending.
        histories: what they did before; numbered 1..n.
        targets: `[n]` item ids.
        excluded: `[n + 1]` offsets and the items that are not ranked in `full`, as `ranks.rank` takes them.
        negatives: `[n, m]` item ids.
    """

    users: np.ndarray
    histories: Sequences
    targets: np.ndarray
    excluded: tuple[np.ndarray, np.ndarray]
    negatives: np.ndarray

    @property
    def to_rank(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What `ranks.rank` takes beside the vectors."""
        return self.targets, *self.excluded, self.negatives

    def rank(self, users: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        """The ranks of the targets by `users` `[n, d]` and `items` `[I + 1, d]`; see `ranks.rank`."""
        return ranks.rank(users, items, *self.to_rank)


def read(interactions: Sequences, split: Path, by: str, repeats: str, seed: int) -> dict[str, Cases]:
    """`valid`, `test` and `test_shuffled` of data/split, with all users who have a target.

    Args:
        by, repeats: split.by and data.repeats.
        seed: of the shuffle.
    """
    valid, test = (_cases(interactions, split, name, by, repeats) for name in ("valid", "test"))
    shuffled = Cases(test.users, test.histories.shuffled(seed), test.targets, test.excluded, test.negatives)
    return {"valid": valid, "test": test, "test_shuffled": shuffled}


def _cases(interactions: Sequences, split: Path, name: Literal["valid", "test"], by: str, repeats: str) -> Cases:
    held = held_out.read(interactions, split, name, by)
    known = held.histories.excluded(repeats)
    _, negatives = candidates.read(split / "candidates.parquet", name)
    return Cases(held.users, held.histories, held.targets, (known.offsets[1:], known.items), negatives)
