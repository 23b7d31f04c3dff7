"""Each user's events in train, valid and test: leave-last-out, or cut at two times.

Users go through in blocks, so that memory does not grow with their number; what is written is the same however they are
cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmsrec.data.candidates import Block, write_candidates
from llmsrec.data.parts import join, working
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.files import atomic, sha256, write_json

PARTS = ("train", "valid", "test")
EVENTS = 1 << 21  # of a block, about
LAST_RULE = "leave-last-out in the order of events: the last is test, the one before it valid, all others train"
TIME_RULE = (
    "cut at two times: train is what was before the first; of each user with events before a cut, the first event from "
    "it on is the target: valid of the first cut, if it was before the second, and test of the second"
)


@dataclass(frozen=True)
class Cuts:
    """Two times, in ms: `valid` ends training, and `test` validation."""

    valid: int
    test: int


def split_interactions(
    filtered: Path,
    out: Path,
    negatives: int,
    shuffle_train: bool,
    seed: int,
    shares: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Write `out`/{train,valid,test,candidates}.parquet and manifest.json, and return the manifest.

    Args:
        shares: of all events, those of validation and of test in a split by time; None is leave-last-out.

    Raises:
        DataError: a user has fewer than three events, there are too few items for the candidates, or a split by time
            leaves a part without events.
    """
    interactions = filtered / "interactions.parquet"
    items = pl.scan_parquet(filtered / "items.parquet").select(pl.len()).collect().item()
    cuts = None if shares is None else find_cuts(interactions, *shares)
    of_users = partial(blocks, interactions, cuts)
    counts = write_parts(of_users, out, items, seed if shuffle_train else None)
    manifest = {
        "rule": LAST_RULE if cuts is None else TIME_RULE,
        "events": {name: counts[name] for name in PARTS},
        "users": counts["users"],
        "items": items,
        "shuffle_train": shuffle_train,
        "negatives": negatives,
        "candidates": "uniform without repetition among the items outside the user's whole history",
        "seed": seed,
    }
    if cuts is not None:
        _refuse_empty(counts, cuts)
        manifest["time"] = {"cuts": vars(cuts), "new_items": counts["new_items"], "new_users": _new(interactions, cuts)}
    write_candidates(out / "candidates.parquet", of_users, items, negatives, seed)
    manifest["outputs"] = {f"{name}.parquet": sha256(out / f"{name}.parquet") for name in (*PARTS, "candidates")}
    write_json(out / "manifest.json", manifest)
    return manifest


def blocks(interactions: Path, cuts: Cuts | None) -> Iterator[Block]:
    """All users of interactions.parquet with their events in train, valid and test, block by block."""
    for before, events in Sequences.blocks(interactions, EVENTS):
        yield Block(before, events, leave_last_out(events) if cuts is None else cut(events, cuts))


def write_parts(blocks: Callable[[], Iterator[Block]], out: Path, items: int, shuffle: int | None) -> dict[str, Any]:
    """Write train, valid and test, and return `users`, the events of each part, and `new_items` (part -> targets
    that are items without a training event).

    Args:
        shuffle: the seed, if each training sequence is to be shuffled.
    """
    rng = None if shuffle is None else np.random.default_rng(shuffle)
    held = {name: np.zeros(items + 1, dtype=np.int64) for name in PARTS}  # events of each item
    counts: dict[str, Any] = dict.fromkeys(("users", *PARTS), 0)
    written: dict[str, list[Path]] = {name: [] for name in PARTS}
    with working(out) as folder:
        for number, block in enumerate(blocks()):
            counts["users"] += block.histories.users
            for name, part in block.parts.items():
                counts[name] += len(part.items)
                shuffled = part.shuffled(rng) if name == "train" and rng is not None else part
                written[name].append(folder / f"{name}.{number:05d}.parquet")
                with atomic(written[name][-1]) as temporary:
                    frame(shuffled, block.before).write_parquet(temporary, compression="lz4")
                held[name] += np.bincount(part.items, minlength=items + 1)
        for name, files in written.items():
            join(files, out / f"{name}.parquet")
    return counts | {"new_items": {name: int(held[name][held["train"] == 0].sum()) for name in ("valid", "test")}}


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
        "valid": sequences.only(sequences.lengths() - 2),
        "test": sequences.only(sequences.lengths() - 1),
    }


def cut(sequences: Sequences, cuts: Cuts) -> dict[str, Sequences]:
    """The events of train, valid and test of a split by time (global temporal split: Meng et al. 2020, "Exploring Data
    Splitting Strategies for the Evaluation of Recommendation Models").

    A user without an event before a cut has no target of it: there is nothing to recommend by.
    """
    before = {name: sequences.before(time) for name, time in vars(cuts).items()}  # [U + 1] events of each user
    valid, test = (sequences.only(np.where(count > 0, count, -1)) for count in before.values())
    return {"train": sequences.first(before["valid"]), "valid": valid.first(valid.before(cuts.test)), "test": test}


def find_cuts(interactions: Path, valid: float, test: float) -> Cuts:
    """The times from which on there are these shares of all events: `valid` up to the second cut, `test` after it."""
    times = pl.scan_parquet(interactions).select(pl.col("timestamp").sort()).collect()["timestamp"]
    return Cuts(*(int(times[min(len(times) - 1, int(len(times) * (1 - after)))]) for after in (valid + test, test)))


def _new(interactions: Path, cuts: Cuts) -> dict[str, int]:
    """Users whose first event is in validation, or in test: nobody is asked about them there."""
    first = pl.scan_parquet(interactions).group_by("user_id").agg(pl.col("timestamp").min())
    valid, test = pl.col("timestamp") >= cuts.valid, pl.col("timestamp") >= cuts.test
    return first.select(valid=(valid & ~test).sum(), test=test.sum()).collect(engine="streaming").to_dicts()[0]


def _refuse_empty(counts: dict[str, Any], cuts: Cuts) -> None:
    for name in PARTS:
        if not counts[name]:
            raise DataError(
                f"a split by time (split.by) at {cuts.valid} and {cuts.test} (ms) leaves {name} without an event of a "
                "user who has events before; change split.time.valid and split.time.test, or set split.by to last."
            )


def frame(sequences: Sequences, before: int = 0) -> pl.DataFrame:
    """`user_id, item_id, timestamp` rows, as `Sequences.read` takes them; the first user is number `before` + 1."""
    users = np.arange(len(sequences.offsets) - 1, dtype=np.int32) + np.int32(before)
    return pl.DataFrame(
        {
            "user_id": np.repeat(users, sequences.lengths()),
            "item_id": sequences.items,
            "timestamp": sequences.timestamps,
        }
    )
