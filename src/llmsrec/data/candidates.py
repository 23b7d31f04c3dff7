"""The negatives of the sampled protocol (uni99): drawn once, stored, the same for every model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmsrec.data.sequences import Sequences
from llmsrec.data.threads import in_order
from llmsrec.errors import DataError
from llmsrec.files import atomic, require_parquet

CHUNK = 1 << 14  # users at a time; the draw does not depend on it

SCHEMA = pa.schema(
    [("user_id", pa.int32()), ("split", pa.string()), ("item_id", pa.int32()), ("negatives", pa.list_(pa.int32()))]
)


@dataclass(frozen=True)
class Block:
    """Some of the users, one after the other.

    Attributes:
        before: the number of users before them.
        histories: all events of theirs, users numbered 1, 2, ...
        parts: train, valid and test; one event of valid and of test at most.
    """

    before: int
    histories: Sequences
    parts: dict[str, Sequences]


def write_candidates(path: Path, blocks: Callable[[], Iterator[Block]], items: int, negatives: int, seed: int) -> None:
    """Write `user_id, split, item_id, negatives` rows for valid and test, users with a target ascending within each.

    Args:
        blocks: gives all users anew each time it is called.

    Raises:
        DataError: a user has not interacted with fewer than `negatives` of the items.
    """
    rng = np.random.default_rng(seed)

    def chunks() -> Iterator[tuple[str, Block, np.ndarray, np.ndarray, np.ndarray]]:
        """Split, block, some of its users that have a target, their targets, and the numbers of their draw."""
        for split in ("valid", "test"):
            for block in blocks():
                targets = block.parts[split]
                asked = np.flatnonzero(targets.lengths())
                for first in range(0, len(asked), CHUNK):
                    users = asked[first : first + CHUNK]
                    yield split, block, users, targets.items[first : first + CHUNK], rng.random((len(users), negatives))

    def rows(chunk: tuple[str, Block, np.ndarray, np.ndarray, np.ndarray]) -> pa.Table:
        split, block, users, positives, uniform = chunk
        drawn = draw(block.histories, users, items, uniform, block.before)
        offsets = pa.array(np.arange(0, drawn.size + 1, negatives, dtype=np.int32))
        columns = [
            pa.array(users + block.before, pa.int32()),
            pa.array([split] * len(users)),
            pa.array(positives),
            pa.ListArray.from_arrays(offsets, pa.array(drawn.ravel())),
        ]
        return pa.table(columns, schema=SCHEMA)

    with atomic(path) as temporary, _writer(temporary) as writer:
        for table in in_order(rows, chunks()):
            writer.write_table(table)


def read(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The positives `[U]` and negatives `[U, m]` of users 1..U in valid or test.

    Raises:
        DataError: the file is missing or broken.
    """
    require_parquet(path, SCHEMA.names, "`dvc repro -f split` writes it again")
    frame = pl.scan_parquet(path).filter(split=split).sort("user_id").collect()
    return frame["item_id"].to_numpy(), frame["negatives"].explode().to_numpy().reshape(len(frame), -1)


def _writer(path: Path) -> pq.ParquetWriter:
    """Ascending lists are small as differences, and a dictionary of random numbers helps nobody."""
    encoding = {name: "DELTA_BINARY_PACKED" for name in ("user_id", "item_id", "negatives.list.element")}
    return pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=["split"], column_encoding=encoding)


def draw(histories: Sequences, users: np.ndarray, items: int, uniform: np.ndarray, before: int = 0) -> np.ndarray:
    """`[len(users), n]` int32: for each user, n items of 1..`items` outside the user's history, ascending.

    Every set of that size is equally likely. A user's draw depends on his row of `uniform` alone, so the result does
    not depend on how users are cut into calls.

    Args:
        uniform: `[len(users), n]` numbers in [0, 1).
        before: how many users there are before those of `histories`, for messages.

    Raises:
        DataError: a user has fewer than n items left.
    """
    count = uniform.shape[1]
    owner = np.repeat(np.arange(len(users)), histories.lengths()[users])
    first = np.searchsorted(owner, np.arange(len(users)))
    owned = histories.items[np.arange(len(owner)) + (histories.offsets[users] - first)[owner]]
    # One sort of numbers in which the users lie apart, instead of one by two keys; an item counts once.
    keys = np.sort(owner * (items + 1) + owned)
    keys = keys[np.diff(keys, prepend=-1) > 0]
    owner, owned = np.divmod(keys, items + 1)
    lengths = np.bincount(owner, minlength=len(users))
    outside = items - lengths
    if (outside < count).any():
        user = users[outside.argmin()] + before
        most = int(outside.min())
        lower = f"lower split.negatives to {most}, or bring more items" if most else "bring more items"
        raise DataError(
            f"user {user} has events with {items - most} of the {items} items, so only {most} are left for {count} "
            f"negatives; {lower} (more data, or a lower data.core)."
        )
    ranks = _distinct(outside, uniform)
    return _outside(owned, np.cumsum(lengths) - lengths, lengths, ranks)


def _distinct(sizes: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """`[R, n]` int32, ascending: in row r, n different numbers below sizes[r] (Floyd's algorithm on all rows)."""
    count = uniform.shape[1]
    highest = (sizes[:, None] - count + np.arange(count)).astype(np.int32)
    drawn = (uniform * (highest + 1)).astype(np.int32)
    ordered = np.sort(drawn, axis=1)
    # A row without a repeat is what the algorithm gives; only the others need its steps.
    rows = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    again, top = drawn[rows].T.copy(), highest[rows].T
    for step in range(1, count):
        seen = (again[:step] == again[step]).any(axis=0)
        again[step, seen] = top[step, seen]
    ordered[rows] = np.sort(again.T, axis=1)
    return ordered


def _outside(owned: np.ndarray, starts: np.ndarray, lengths: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The items with the given ranks (0-based, `[R, n]`) among those that a history lacks.

    Args:
        owned: the histories' items; row r's are `lengths[r]` from `starts[r]` on, ascending.
    """
    longest_first = np.argsort(-lengths, kind="stable")
    starts, lengths, items = starts[longest_first], lengths[longest_first], ranks[longest_first] + 1
    # Going up, each item of the history moves all that are not below it by one.
    for place in range(lengths[0]):
        rows = np.searchsorted(-lengths, -place)  # how many rows have an item at this place
        items[:rows] += items[:rows] >= owned[starts[:rows] + place][:, None]
    result = np.empty_like(items)
    result[longest_first] = items
    return result
