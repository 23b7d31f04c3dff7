"""What a training is asked after each epoch."""

from dataclasses import dataclass

import numpy as np

from llmsrec.data.held_out import HeldOut
from llmsrec.data.sequences import Sequences
from llmsrec.evaluation import metrics, ranks

METRIC = "valid/full/ndcg_10"  # what `Validation.score` is


@dataclass(frozen=True)
class Validation:
    """Users 1, ..., U who have a validation target.

    Attributes:
        histories: their events before it.
        targets: `[U]` item ids.
        excluded: what is not ranked: their histories' items, or nothing.
    """

    histories: Sequences
    targets: np.ndarray
    excluded: Sequences

    @classmethod
    def of(cls, valid: HeldOut, repeats: str, at_most: int | None = None, seed: int = 0) -> "Validation":
        """All users of the validation split, or a sample of `at_most` by `seed`.

        Args:
            repeats: data.repeats; with `keep`, items of the history are ranked, too.
        """
        histories, targets = valid.histories, valid.targets
        if at_most is not None and len(targets) > at_most:
            rows = np.sort(np.random.default_rng(seed).choice(len(targets), at_most, replace=False))
            histories, targets = histories.of_users(rows + 1), targets[rows]
        return cls(histories, targets, histories.excluded(repeats))

    def score(self, users: np.ndarray, items: np.ndarray) -> float:
        """Full NDCG@10 by vectors `[U + 1, d]`, row 0 of no user, and `[I + 1, d]`."""
        of = ranks.rank(users[1:], items, self.targets, self.excluded.offsets[1:], self.excluded.items)
        return float(metrics.ndcg(of["full"], 10).mean())
