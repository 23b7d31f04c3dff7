"""Leave-last-out: each user's last event is the test, the one before it validation, the rest training."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmsrec.data.candidates import write_candidates
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.files import atomic, sha256, write_json

RULE = "leave-last-out in the order of events: the last is test, the one before it valid, all others train"


def split_interactions(filtered: Path, out: Path, negatives: int, shuffle_train: bool, seed: int) -> dict[str, Any]:
    """Write `out`/{train,valid,test,candidates}.parquet and manifest.json, and return the manifest.

    Raises:
        DataError: a user has fewer than three events, or there are too few items for the candidates.
    """
    sequences = Sequences.read(filtered / "interactions.parquet")
    items = pl.scan_parquet(filtered / "items.parquet").select(pl.len()).collect().item()
    parts = leave_last_out(sequences)
    if shuffle_train:
        parts["train"] = parts["train"].shuffled(seed)
    for name, part in parts.items():
        with atomic(out / f"{name}.parquet") as temporary:
            frame(part).write_parquet(temporary)
    write_candidates(out / "candidates.parquet", sequences, parts, items, negatives, seed)
    manifest = {
        "rule": RULE,
        "events": {name: len(part.items) for name, part in parts.items()},
        "users": sequences.users,
        "items": items,
        "shuffle_train": shuffle_train,
        "negatives": negatives,
        "candidates": "uniform without repetition among the items outside the user's whole history",
        "seed": seed,
        "outputs": {f"{name}.parquet": sha256(out / f"{name}.parquet") for name in (*parts, "candidates")},
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def leave_last_out(sequences: Sequences) -> dict[str, Sequences]:
    """The events of train, valid and test.

    Raises:
        DataError: a user has fewer than three events.
    """
    shortest = sequences.lengths()[1:].min()
    if shortest < 3:
        raise DataError(
            f"a user has {shortest} events, a split needs 3, and the filter leaves no such user: its files were "
            "altered. Run `dvc repro -f -s filter`, then `dvc repro`."
        )
    return {
        "train": sequences.drop_last(2),
        "valid": _only(sequences, sequences.offsets[2:] - 2),
        "test": _only(sequences, sequences.offsets[2:] - 1),
    }


def frame(sequences: Sequences) -> pl.DataFrame:
    """`user_id, item_id, timestamp` rows, as `Sequences.read` takes them."""
    users = np.arange(len(sequences.offsets) - 1, dtype=np.int32)
    return pl.DataFrame(
        {
            "user_id": np.repeat(users, sequences.lengths()),
            "item_id": sequences.items,
            "timestamp": sequences.timestamps,
        }
    )


def _only(sequences: Sequences, events: np.ndarray) -> Sequences:
    """One event of each user, at the places `events` `[U]`."""
    offsets = np.concatenate([[0], np.arange(len(events) + 1)]).astype(np.int64)
    return Sequences(offsets, sequences.items[events], sequences.timestamps[events])
