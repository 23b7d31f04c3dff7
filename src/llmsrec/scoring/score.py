"""All users of a source to one file of recommendations.

A user gets what `Recommender.recommend` would answer, without a request's limits. Users go through a tower in batches
of like length, so that a batch holds a number of tokens and not of users.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmsrec.errors import DataError, RequestError
from llmsrec.files import read_json, sha256, write_json
from llmsrec.progress import Progress
from llmsrec.scoring import histories
from llmsrec.scoring.batches import batches
from llmsrec.scoring.histories import Source
from llmsrec.scoring.parts import Parts, working
from llmsrec.serving.bundle import MANIFEST, Bundle
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import TOWERS

USERS = 1024  # of a part: so much work a killed run loses at most
POPULAR = "popular"
COLUMNS = pl.Schema(
    {
        "user_id": pl.String(),
        "rank": pl.Int32(),
        "parent_asin": pl.String(),
        "score": pl.Float32(),
        "version": pl.String(),
        "tower": pl.String(),
        "created": pl.Datetime("ms", "UTC"),
    }
)


@dataclass(frozen=True)
class Wanted:
    """What is to be recommended: the best `k` items of a tower, to the users of shard (i, n)."""

    tower: str
    k: int
    shard: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Summary:
    """What came of it.

    Attributes:
        counts: `users`, `rows`, `unknown` (items of histories that the catalogue does not have, skipped), `popular`
            (users of whom no item is known), `short` (users with fewer than k items left).
        resumed: users that an earlier, killed run had finished.
        rate: users a second of this run.
    """

    counts: dict[str, int]
    resumed: int
    rate: float


def score(bundle: Bundle, version: str, source: Source, out: Path, wanted: Wanted) -> Summary:
    """Write `out`: `user_id, rank` (from 1), `parent_asin, score, version, tower, created`.

    A user's rows stand together, best first. Where no item of a history is known the items are the popular ones:
    `tower` is then `popular` and `score` an item's number of events. `created` is when the work began. `out` appears
    whole, and what was there before is there until then. A killed run goes on where it was, if bundle, source and
    options are the same.

    Args:
        version: for the column.

    Raises:
        RequestError: a tower that the bundle does not have, `k` beyond the catalogue, or another process writes `out`.
        DataError: a source that cannot be read or has no users, or `out` cannot be written.
    """
    _check(bundle, wanted)
    recommender = Recommender(bundle)
    recommender.tower(wanted.tower)  # what it lacks is said before anything is read
    with working(out, _digest(bundle, version, source, wanted)) as parts:
        state = _spread(parts, source, wanted.shard)
        slices = [(bucket, at) for bucket, users in enumerate(state["users"]) for at in range(0, users, USERS)]
        sizes = [min(USERS, state["users"][bucket] - at) for bucket, at in slices]
        missing = [number for number in range(len(slices)) if not parts.has(number)]
        done = sum(sizes) - sum(sizes[number] for number in missing)
        loaded, users = -1, pl.DataFrame()
        with Progress(sum(sizes), done) as progress:
            for number in missing:
                bucket, at = slices[number]
                if bucket != loaded:
                    loaded, users = bucket, histories.users_of(parts.events, bucket)
                ranked, counts = _ranked(recommender, len(bundle.items), users.slice(at, USERS), wanted, progress)
                about = {"version": version, "created": datetime.fromisoformat(state["created"])}
                parts.write(number, _rows(ranked, bundle.items["parent_asin"], about).to_arrow(), counts)
        counts = parts.join(len(slices), pl.DataFrame(schema=COLUMNS).to_arrow().schema)
    return Summary(counts, done, progress.rate())


def _check(bundle: Bundle, wanted: Wanted) -> None:
    if wanted.tower not in TOWERS:
        raise RequestError(f"--tower is {wanted.tower!r}; it is one of {', '.join(TOWERS)}.")
    bundle.check_tower(wanted.tower, "--tower")
    if not 1 <= wanted.k <= len(bundle.items):
        raise RequestError(f"--k is {wanted.k}, but the catalogue has {len(bundle.items)} items; it is one of these.")


def _digest(bundle: Bundle, version: str, source: Source, wanted: Wanted) -> str:
    """Names the work: equal digests, equal parts."""
    files = [sha256(path) for path in source.files]
    sealed = read_json(bundle.folder / MANIFEST)["bundle_sha256"]
    named = [sealed, version, files, wanted.tower, wanted.k, wanted.shard, USERS]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]


def _spread(parts: Parts, source: Source, shard: tuple[int, int]) -> dict[str, Any]:
    """The work's state, `{"created", "users"}`, once the events are spread."""
    if not parts.state.exists():
        shutil.rmtree(parts.events, ignore_errors=True)
        parts.events.mkdir()
        users = histories.spread(source, parts.events, shard)
        if not any(users) and shard == (1, 1):
            raise DataError(f"{source.name} holds no users; nothing is written.")
        write_json(parts.state, {"created": datetime.now(UTC).isoformat(timespec="milliseconds"), "users": users})
    state: dict[str, Any] = read_json(parts.state)
    return state


@dataclass(frozen=True)
class Ranked:
    """A user's items: rows of the catalogue, best first, their scores, and the tower that ranked them."""

    user_id: str
    items: np.ndarray
    scores: np.ndarray
    tower: str


def _ranked(
    recommender: Recommender, catalogue: int, users: pl.DataFrame, wanted: Wanted, progress: Progress
) -> tuple[list[Ranked], dict[str, int]]:
    """The items of each user, in the users' order, and the counts of `Summary`."""
    histories_sent = users.select("parent_asin", "timestamp").rows()
    read = [recommender.history(asins, times) for asins, times in histories_sent]
    popular = recommender.popular(wanted.k)
    ranked = [Ranked(user, *popular, POPULAR) for user in users["user_id"]]
    known = [row for row, history in enumerate(read) if len(history.items)]
    progress.add(len(read) - len(known))
    for batch in batches([read[row] for row in known], recommender.tower(wanted.tower), catalogue):
        rows = [known[place] for place in batch]
        for row, best in zip(rows, recommender.rank([read[r] for r in rows], wanted.tower, wanted.k), strict=True):
            ranked[row] = Ranked(ranked[row].user_id, *best, wanted.tower)
        progress.add(len(rows))
    counts = {
        "users": len(ranked),
        "rows": sum(len(user.items) for user in ranked),
        "unknown": sum(len(history.unknown) for history in read),
        "popular": len(read) - len(known),
        "short": sum(len(user.items) < wanted.k for user in ranked),
    }
    return ranked, counts


def _rows(ranked: list[Ranked], asins: pl.Series, about: dict[str, Any]) -> pl.DataFrame:
    """A row an item, in the form of the output."""
    lengths = [len(user.items) for user in ranked]
    columns = {
        "user_id": np.repeat(np.array([user.user_id for user in ranked], dtype=object), lengths),
        "rank": np.concatenate([np.arange(1, length + 1) for length in lengths]),
        "parent_asin": asins.gather(np.concatenate([user.items for user in ranked])),
        "score": np.concatenate([user.scores for user in ranked]),
        "tower": np.repeat(np.array([user.tower for user in ranked], dtype=object), lengths),
    }
    frame = pl.DataFrame(columns).with_columns(pl.lit(value).alias(name) for name, value in about.items())
    return frame.select(COLUMNS.names()).cast(COLUMNS)
