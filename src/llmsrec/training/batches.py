"""Which histories, targets and negatives each step of LLM-SRec sees: a function of the seed, so resuming is exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from llmsrec.data.sequences import Sequences

WINDOW = 50  # batches that are drawn together and sorted by length


@dataclass(frozen=True)
class Samples:
    """Training examples: a stretch of a user's training events, and which of its positions are followed by a target.

    Row s is about the events `start[s]` up to `stop[s]` of user `users[s]` (counted from the user's first). Its
    histories are `start .. t` for each target `t` from `first[s]` to `stop[s]`.

    Attributes:
        sequences: the training events.
        users, start, first, stop: `[S]` int64.
        seen: `[N]` sorted keys `user * (items + 1) + item` of all training events; a negative is none of them.
        items: I.
    """

    sequences: Sequences
    users: np.ndarray
    start: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    seen: np.ndarray
    items: int

    @classmethod
    def of(cls, train: Sequences, items: int, targets: Literal["last", "all"], history: int) -> "Samples":
        """Cut training sequences into rows.

        Args:
            targets: `last`: a row a user, whose target is the last event (paper, Sec. 3.2). `all`: every event but the
                first is a target once (paper, F.5); where a sequence is longer than `history`, its rows overlap by
                half, so that every target but the first few has at least half a history before it.
            history: the most events of a history.
        """
        lengths = train.lengths()
        owner = np.repeat(np.arange(len(lengths)), lengths)
        seen = np.sort(owner.astype(np.int64) * (items + 1) + train.items)
        rows = []
        for user in np.flatnonzero(lengths >= 2).tolist():
            last = int(lengths[user]) - 1
            if targets == "last":
                rows.append((user, max(0, last - history), last, last))
                continue
            start, first = 0, 1
            while first <= last:
                stop = min(start + history, last)
                rows.append((user, start, first, stop))
                start, first = stop + 1 - max(1, (history + 1) // 2), stop + 1
        users, starts, firsts, stops = np.array(rows, dtype=np.int64).reshape(-1, 4).T
        return cls(train, users, starts, firsts, stops, seen, items)

    def histories(self, rows: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
        """Items and times of each row's longest history, and how many events its shortest one has."""
        base = self.sequences.offsets[self.users[rows]]
        spans = [slice(a, b) for a, b in zip(base + self.start[rows], base + self.stop[rows], strict=True)]
        items = [self.sequences.items[span] for span in spans]
        times = [self.sequences.timestamps[span] for span in spans]
        return items, times, (self.first[rows] - self.start[rows]).tolist()

    def targets(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of all targets `[T]` of `rows`, row by row: the users, and the targets' places in `sequences.items`."""
        counts = self.stop[rows] - self.first[rows] + 1
        users = np.repeat(self.users[rows], counts)
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        return users, self.sequences.offsets[users] + np.repeat(self.first[rows], counts) + within

    def before(self, users: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
        """`[T, length]` the items before each target, right-aligned and padded with 0, as the teacher takes them."""
        return self.sequences.preceding(users, places, length)

    @cached_property
    def popularity(self) -> np.ndarray:
        """`[I + 1]` each item's share of all targets."""
        _, places = self.targets(np.arange(len(self.users)))
        return np.bincount(self.sequences.items[places], minlength=self.items + 1) / max(1, len(places))

    def own(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each item is among its user's training events; any shapes that broadcast."""
        keys = users.astype(np.int64) * (self.items + 1) + items
        place = np.searchsorted(self.seen, keys)
        return self.seen[np.minimum(place, len(self.seen) - 1)] == keys

    def known(self, users: np.ndarray) -> np.ndarray:
        """`[T, I + 1]` whether each item is among a user's training events, as `own`, for all items at once."""
        sequences, whether = self.sequences, np.zeros((len(users), self.items + 1), dtype=bool)
        counts = sequences.offsets[users + 1] - sequences.offsets[users]
        rows = np.repeat(np.arange(len(users)), counts)
        places = np.arange(len(rows)) + np.repeat(sequences.offsets[users] - (counts.cumsum() - counts), counts)
        whether[rows, sequences.items[places]] = True
        return whether

    def negatives(self, users: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """`[T, count]` items drawn uniformly from those outside each user's training events."""
        users = np.repeat(users, count)
        drawn = rng.integers(1, self.items + 1, len(users))
        while len(taken := np.flatnonzero(self.own(users, drawn))):
            drawn[taken] = rng.integers(1, self.items + 1, len(taken))
        return drawn.reshape(-1, count)


def epoch(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of one epoch's batches, each row once.

    Within a window of `WINDOW` random batches, rows are sorted by length, so that little padding is run; the batches
    then come in random order.

    Args:
        lengths: `[S]` prompt length of each row.
    """
    order = rng.permutation(len(lengths))
    batches = []
    for window in np.split(order, range(WINDOW * batch_size, len(order), WINDOW * batch_size)):
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += np.split(window, range(batch_size, len(window), batch_size))
    for index in rng.permutation(len(batches)):
        yield batches[index]


def check_steps(steps: int, checks: int) -> set[int]:
    """After which steps (1-based) of an epoch to evaluate: evenly spread, the last step always among them."""
    return {max(1, round(steps * k / checks)) for k in range(1, checks + 1)}
