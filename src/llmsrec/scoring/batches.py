"""Histories of like length together, so that a batch holds a number of tokens and not of users."""

from collections.abc import Iterator

import numpy as np

from llmsrec.serving.towers import History, Tower

POSITIONS = 8192  # of a batch: tokens of the `llm` tower, places of the others
SCORES = 1 << 25  # of a batch: users times items


def batches(read: list[History], tower: Tower, catalogue: int) -> Iterator[list[int]]:
    """Places in `read`, in batches of histories of like length: padded at most `POSITIONS` long, at most `SCORES` wide.

    Args:
        catalogue: the number of items that each history is scored against.
    """
    if not read:
        return
    most, lengths = max(1, SCORES // catalogue), tower.lengths(read)
    batch: list[int] = []
    for place in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) == most or (len(batch) + 1) * lengths[place] > POSITIONS):
            yield batch
            batch = []
        batch.append(place)
    yield batch
