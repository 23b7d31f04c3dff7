"""Raw reviews to interactions: repeats, a sample of users, the k-core, dense ids.

Reviews are cut into parts of consecutive users (`llmsrec.data.parts`), and strings become integer codes, so that memory
grows with the number of items and not of reviews; the rest is arithmetic on arrays. What is written is the same however
reviews are cut.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import polars as pl

from llmsrec.data import cold
from llmsrec.data.catalogue import catalogue_of
from llmsrec.data.parts import join, spread, texts, working
from llmsrec.data.threads import in_order
from llmsrec.data.titles import UNTITLED
from llmsrec.errors import DataError
from llmsrec.files import atomic, sha256, write_json

TIE_RULE = "events by timestamp, equal times in the order of the raw lines; the first of a user's repeats of an item"
REPEATS_RULE = "kept; the core counts each pair of user and item once, so users and items are those of `first`"
LEAST_CORE = 3  # a user's training, validation and test event
ID_RULE = "1, 2, 3, ... in ascending byte order of the raw ids that are left"


@dataclass(frozen=True)
class Events:
    """Events of a part, by user, then time, then line.

    Attributes:
        users: `[N]` int32, places of the part's users in the byte order of their raw ids.
        items: `[N]` int32 codes.
        timestamps: `[N]` int64, ms.
        first: `[N]` bool, False for a repeat of an earlier pair of user and item.
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    first: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "Events":
        frame = pl.read_ipc(path.read_bytes())  # of a path it would map the file, which a round writes anew
        return cls(**{name: frame[name].to_numpy() for name in frame.columns})

    def save(self, path: Path) -> None:
        pl.DataFrame(vars(self)).write_ipc(path)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items without repeats."""
        if self.first.all():
            return self.users, self.items
        return self.users[self.first], self.items[self.first]

    def where(self, keep: np.ndarray) -> "Events":
        """The events of a mask."""
        return Events(*(values[keep] for values in vars(self).values()))


class Counts:
    """Users, items and events of all parts so far, the parts' users being different ones.

    Attributes:
        items: `[I]` events of each item code.
    """

    def __init__(self, items: int) -> None:
        self.items = np.zeros(items, dtype=np.int64)
        self.users = 0
        self._lock = Lock()

    def add(self, users: np.ndarray, items: np.ndarray) -> None:
        """Add a part's; threads may, at the same time."""
        different = int(np.count_nonzero(np.bincount(users)))
        with self._lock:
            self.users += different
            np.add.at(self.items, items, 1)  # a part has few of the items that `bincount` would have a place for

    def step(self, name: str) -> dict[str, Any]:
        """A line of the manifest's `steps`."""
        items, events = int(np.count_nonzero(self.items)), int(self.items.sum())
        return {"step": name, "users": self.users, "items": items, "events": events}


def filter_reviews(
    raw: Path,
    out: Path,
    core: int,
    user_fraction: float,
    seed: int,
    repeats: Literal["first", "keep"] = "first",
    cold_fraction: float = 0.0,
) -> dict[str, Any]:
    """Write `out`/interactions.parquet, items.parquet, users.parquet and manifest.json, and return the manifest.

    Args:
        repeats: `first`: of a user's events with an item the first is kept. `keep`: all are. The core counts each pair
            of user and item once in both, so the users and items that are left are the same.
        cold_fraction: this share of the items is set aside before the core, see `llmsrec.data.cold`.

    Raises:
        DataError: nothing is left, or nothing of what was set aside; the message has the counts after each step.
    """
    with working(out) as folder:
        parts, item_ids = spread(raw / "reviews.parquet", folder)
        aside = cold.draw(item_ids, cold_fraction, seed) if cold_fraction else None
        steps, pairs = prepare(parts, len(item_ids), user_fraction, seed, repeats, aside)
        rounds, counts, left = core_rounds(parts, pairs, core)
        steps += rounds
        if counts.users == 0:
            counted = "; ".join("{step}: {users} users, {items} items, {events} events".format(**of) for of in steps)
            raise DataError(
                f"{raw / 'reviews.parquet'}: no event is left of data.core {core} ({counted}). "
                f"{_remedy(parts, pairs, core, user_fraction, cold_fraction)}"
            )
        item_of, kept = dense(counts.items > 0, item_ids)
        if aside is not None:
            held_out = events_aside(parts, left)
            cold_of, cold_kept = dense(cold.kept(held_out, len(item_ids), core, cold_fraction), item_ids)
        del item_ids  # the catalogue takes its place
        with ThreadPoolExecutor(1) as pool:
            catalogue = pool.submit(catalogue_of, kept, raw / "items.parquet")
            events = write_events(parts, left, item_of, out)
            items = catalogue.result()
    if repeats == "keep":
        steps.append({**steps[-1], "step": "with repeats", "events": events})
    with atomic(out / "items.parquet") as temporary:
        items.write_parquet(temporary)
    manifest: dict[str, Any] = {
        "steps": steps,
        "items_with_title": int((items["title"] != UNTITLED).sum()),
        "core": core,
        "user_fraction": user_fraction,
        "seed": seed,
        "ties": TIE_RULE,
        "ids": ID_RULE,
        "outputs": {f"{name}.parquet": sha256(out / f"{name}.parquet") for name in ("interactions", "items", "users")},
    }
    if repeats == "keep":
        manifest |= {"ties": TIE_RULE.split(";")[0], "repeats": REPEATS_RULE}
    if aside is not None:
        sizes = cold.write(out, held_out, cold_of, catalogue_of(cold_kept, raw / "items.parquet"))
        manifest["cold"] = {"fraction": cold_fraction, **sizes}
        manifest["outputs"] |= {name: sha256(out / name) for name in (cold.ITEMS, cold.EVENTS)}
    write_json(out / "manifest.json", manifest)
    return manifest


def prepare(
    parts: list[Path],
    items: int,
    user_fraction: float,
    seed: int,
    repeats: str,
    aside: np.ndarray | None = None,
) -> tuple[list[dict[str, Any]], Counts]:
    """Turn each part of reviews into `Events` beside it (`.events.arrow`), and its users into `.users.parquet`.

    Args:
        aside: mask of the items whose events go into a file of their own (`.aside.arrow`), without repeats.

    Returns:
        The steps so far, and the counts of the different pairs of user and item.
    """
    names = ["raw", "first of repeats"]
    offsets, chosen = np.zeros(len(parts) + 1, dtype=np.int64), None
    if user_fraction < 1:
        names.append(f"user_fraction {user_fraction}")
        offsets[1:] = np.cumsum(list(in_order(_users, parts)))
        chosen = sample_users(int(offsets[-1]), user_fraction, seed)
    if aside is not None:
        names.append("without cold items")
    counts = {name: Counts(items) for name in names}

    def part(number: int) -> None:
        path, of_step = parts[number], iter(counts.values())

        events, user_ids = read(path)
        next(of_step).add(events.users, events.items)
        next(of_step).add(*events.pairs())
        if chosen is not None:
            events = events.where(chosen[offsets[number] + events.users])
            next(of_step).add(*events.pairs())
        if aside is not None:
            held_out = aside[events.items]
            events.where(held_out & events.first).save(path.with_suffix(".aside.arrow"))
            events = events.where(~held_out)
            next(of_step).add(*events.pairs())
        (events if repeats == "keep" else events.where(events.first)).save(path.with_suffix(".events.arrow"))
        user_ids.to_frame("raw_user_id").write_parquet(path.with_suffix(".users.parquet"), compression="lz4")
        path.unlink()

    for _ in in_order(part, range(len(parts))):
        pass
    return [of.step(name) for name, of in counts.items()], counts[names[-1]]


def read(part: Path) -> tuple[Events, pl.Series]:
    """The events of a part of reviews, and the raw ids of its users in byte order."""
    frame, table = pl.read_ipc(part), pl.Categories.random()
    users = frame["user_id"].cast(pl.Categorical(table))
    codes = users.to_physical().to_numpy()
    ids = texts(table, int(codes.max()) + 1 if len(codes) else 0)
    order = ids.arg_sort()
    place = np.empty(len(ids), dtype=np.int32)
    place[order.to_numpy()] = np.arange(len(ids))
    frame = frame.select("item", "timestamp", user=pl.Series(place[codes]))
    # two sorts that keep the order of equals are half the work of one by both
    frame = frame.sort("timestamp", maintain_order=True).sort("user", maintain_order=True)
    of_users, items, timestamps = (frame[name].to_numpy() for name in ("user", "item", "timestamp"))
    return Events(of_users, items, timestamps, first_of_repeats(of_users, items)), ids.gather(order)


def sample_users(users: int, fraction: float, seed: int) -> np.ndarray:
    """`[users]` mask of a random `fraction` of users in the byte order of their ids, at least one.

    It depends on the set of ids and the seed, not on the order of lines.
    """
    chosen = np.zeros(users, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(users)[: max(1, round(fraction * users))]] = True
    return chosen


def _users(part: Path) -> int:
    return int(pl.scan_ipc(part).select(pl.col("user_id").n_unique()).collect().item())


def first_of_repeats(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Mask of the first event of each (user, item) pair."""
    pairs = users.astype(np.int64) << 32 | items
    order = np.argsort(pairs, kind="stable")
    first = np.empty(len(pairs), dtype=bool)
    first[order] = np.diff(pairs[order], prepend=-1) != 0
    return first


def core_rounds(parts: list[Path], pairs: Counts, core: int) -> tuple[list[dict[str, Any]], Counts, list[Path]]:
    """The rounds of the k-core over all parts: a step for each, the last one's counts, and the files of what is left.

    A round drops all users and all items with fewer than `core` pairs; the last one drops nothing.

    Args:
        pairs: the counts before the first round.
    """
    paths = [path.with_suffix(".events.arrow") for path in parts]
    steps: list[dict[str, Any]] = []
    before, left = pairs.items.sum() + 1, pairs
    while left.items.sum() < before:
        before, enough, left = left.items.sum(), left.items >= core, Counts(len(pairs.items))
        paths = list(in_order(partial(_core_round, core, enough, left), paths))
        steps.append(left.step(f"{core}-core round {len(steps) + 1}"))
    return steps, left, paths


def _core_round(core: int, enough: np.ndarray, left: Counts, path: Path) -> Path:
    """Drop a part's users with fewer than `core` pairs and the items that are not `enough`, and count what is left.

    Returns:
        The file of what is left: the same one if that is all.
    """
    events = Events.load(path)
    keep = (np.bincount(events.pairs()[0]) >= core)[events.users] & enough[events.items]
    if not keep.all():
        events, path = events.where(keep), path.with_name(f"{path.name.split('.')[0]}.left.arrow")
        events.save(path)
    left.add(*events.pairs())
    return path


def _remedy(parts: list[Path], pairs: Counts, core: int, user_fraction: float, cold_fraction: float) -> str:
    """What leaves an event, where `core` leaves none: the largest core that does, if there is one that can be split."""
    for lower in range(core - 1, LEAST_CORE - 1, -1):
        rounds, _, _ = core_rounds(parts, pairs, lower)
        if rounds[-1]["users"]:
            return "data.core {} leaves {users} users, {items} items, {events} events.".format(lower, **rounds[-1])
    if cold_fraction:
        return f"No lower data.core leaves any; lower data.cold_fraction (now {cold_fraction})."
    if user_fraction < 1:
        return f"No lower data.core leaves any; raise data.user_fraction (now {user_fraction})."
    return (
        f"No data.core does, from {LEAST_CORE} on, which a split needs: bring more data, in which users have events "
        f"with {LEAST_CORE} items or more and these items have {LEAST_CORE} users or more."
    )


def write_events(parts: list[Path], left: list[Path], item_of: np.ndarray, out: Path) -> int:
    """Write interactions.parquet and users.parquet from the parts' events, and return the number of events.

    Args:
        left: the files of `Events`, one for each part.
        item_of: the dense id of each item code.
    """
    frames: dict[str, list[Path]] = {"interactions": [], "users": []}
    before = count = 0  # users and events of the parts so far
    for part, path in zip(parts, left, strict=True):
        events = Events.load(path)
        user_ids = pl.read_parquet(part.with_suffix(".users.parquet"))["raw_user_id"]
        user_of, users = dense(np.bincount(events.users, minlength=len(user_ids)) > 0, user_ids)
        interactions = {
            "user_id": user_of[events.users] + np.int32(before),
            "item_id": item_of[events.items],
            "timestamp": events.timestamps,
        }
        users = users.select(user_id=pl.col("id") + before, raw_user_id="raw_id")
        for name, frame in (("interactions", pl.DataFrame(interactions)), ("users", users)):
            frames[name].append(part.with_suffix(f".{name}.out.parquet"))
            frame.write_parquet(frames[name][-1], compression="lz4")
        before, count = before + len(users), count + len(events.users)
    for name, written in frames.items():
        join(written, out / f"{name}.parquet")
    return count


def events_aside(parts: list[Path], left: list[Path]) -> pl.DataFrame:
    """The events of the items that were set aside, of users that are left: `user_id, item` (a code) `, timestamp`."""
    frames, before = [], 0
    for part, path in zip(parts, left, strict=True):
        aside, users = Events.load(part.with_suffix(".aside.arrow")), Events.load(path).users
        stays = np.bincount(users, minlength=int(aside.users.max(initial=0)) + 1) > 0
        numbers = np.cumsum(stays, dtype=np.int32) + np.int32(before)
        aside = aside.where(stays[aside.users])
        frames.append(
            pl.DataFrame({"user_id": numbers[aside.users], "item": aside.items, "timestamp": aside.timestamps})
        )
        before += int(stays.sum())
    return pl.concat(frames)


def dense(left: np.ndarray, raw_ids: pl.Series) -> tuple[np.ndarray, pl.DataFrame]:
    """A map from code to dense id (int32; 0 where not `left`), and the table `id, raw_id` in byte order.

    Args:
        left: mask of the codes that get an id.
        raw_ids: what each code stands for.
    """
    codes = np.flatnonzero(left)
    strings = raw_ids.gather(codes)
    order = strings.arg_sort().to_numpy()
    ids = np.arange(1, len(codes) + 1, dtype=np.int32)
    id_of = np.zeros(len(raw_ids), dtype=np.int32)
    id_of[codes[order]] = ids
    return id_of, pl.DataFrame({"id": ids, "raw_id": strings.gather(order)})
