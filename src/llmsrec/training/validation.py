"""What a training is asked after each epoch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmsrec import distributed
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
            rows = valid.rows(at_most, seed)
            histories, targets = histories.of_users(rows + 1), targets[rows]
        return cls(histories, targets, histories.excluded(repeats))

    def score(self, users: np.ndarray, items: np.ndarray) -> float:
        """Full NDCG@10 by vectors `[U + 1, d]`, row 0 of no user, and `[I + 1, d]`; processes share the users."""

        def rank(rows: np.ndarray) -> Tensor:
            seen = ranks.select(self.excluded.offsets, self.excluded.items, rows)
            return torch.from_numpy(ranks.rank(users[rows], items, self.targets[rows - 1], *seen)["full"])

        of = distributed.spread_rows(rank, np.arange(1, len(self.targets) + 1))
        return float(metrics.ndcg(of.numpy(), 10).mean())
