"""What data are for, in figures: shares of items, users and events, each beside the limits that params.yaml sets it.

The other rules hold for each row or are broken; here a few of a million are no reason to stop, and half of them are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from llmsrec.data.checks.tables import Files
from llmsrec.data.titles import titled
from llmsrec.errors import DataError
from llmsrec.files import read_json

EXAMPLES = 5
DAY = 86_400_000  # ms
YEAR = 365.25 * DAY
REPEATS, ROUND = "first of repeats", "core round"  # steps of the filter's manifest
NO_TITLES = (
    "is the catalogue (meta_<category>) that of these events, with a text in `title`? A language model knows nothing "
    "else of an item"
)


class Limits(Protocol):
    """A section of `checks` in params.yaml."""

    @property
    def warn(self) -> float | None: ...
    @property
    def fail(self) -> float | None: ...


@dataclass(frozen=True)
class Share:
    """One figure of the data.

    Attributes:
        name: its section below `checks` in params.yaml.
        sentence: what is counted, such as `items without a title`.
        value: the share, 0..1, or a number of days; None where there is nothing to count.
        least: whether the limits are the least that it may be; else they are the most.
        count, of: how many of how many are on the wrong side; None of days.
        what: plural of what is counted: items, users, events or days.
        remedy: what to do where it is beyond a limit.
        examples: rows on the wrong side, the worst first; only looked for where a limit is broken.
    """

    name: str
    sentence: str
    value: float | None
    least: bool
    count: int | None
    of: int | None
    what: str
    remedy: str
    examples: Callable[[], Sequence[Mapping[str, Any]]]

    def text(self, value: float | None) -> str:
        """A value or a limit for people."""
        if value is None:
            return "none"
        return f"{value:,.0f} days" if self.what == "days" else percent(value)


def percent(share: float) -> str:
    """As many digits as tell it from nothing and from all: 0.05%, 99.96%."""
    near = min(share, 1 - share) / 20
    digits = next((n for n in (1, 2) if abs(round(share, n + 2) - share) <= near), 3 if 0 < share < 1 else 1)
    return f"{share:.{digits}%}"


def measure(files: Files, folders: Mapping[str, Path], core: int, years: float) -> list[Share]:
    """All figures.

    Args:
        files: see `tables.scan`.
        folders: where they lie: raw (when it was written is `now`), filtered (its manifest has the filter's steps).
        core: data.core.
        years: an event older than the newest by more is old.
    """
    return [*_of_titles(files), *_of_steps(files, folders["filtered"], core), *_of_times(files, folders["raw"], years)]


def _of_titles(files: Files) -> list[Share]:
    """Of the kept items; examples are those with most events."""
    events = files["filtered/interactions"].group_by("item_id").agg(pl.len().alias("events"))
    items = files["filtered/items"].join(events, on="item_id", how="left").collect()
    items = items.sort("events", "item_id", descending=[True, False])
    says = titled(items["title"])
    bare, named = items.filter(~says), items.filter(says)
    shared = named.filter(pl.col("title").is_duplicated())

    def twins() -> list[dict[str, Any]]:
        groups = shared.group_by("title", maintain_order=True).agg(pl.len().alias("items"))
        return groups.sort("items", descending=True, maintain_order=True).head(EXAMPLES).to_dicts()

    return [
        Share(
            "titles", "items that have a title", _ratio(named.height, items.height), True, bare.height, items.height,
            "items", NO_TITLES, lambda: bare.select("item_id", "parent_asin", "events").head(EXAMPLES).to_dicts(),
        ),
        Share(
            "duplicate_titles", "items whose title another item has, too", _ratio(shared.height, items.height), False,
            shared.height, items.height, "items",
            "are variants of a product items of their own, or is `title` that of a group? A language model cannot tell "
            "such items apart", twins,
        ),
    ]  # fmt: skip


def _of_steps(files: Files, filtered: Path, core: int) -> list[Share]:
    """Of what the filter drops, by the counts in its manifest."""
    steps = read_json(filtered / "manifest.json")["steps"]
    rounds = [number for number, step in enumerate(steps) if ROUND in step["step"]]
    if not rounds:
        raise DataError(f"{filtered / 'manifest.json'} has no step of the {core}-core; run `dvc repro -f -s filter`.")
    before, after = steps[rounds[0] - 1], steps[rounds[-1]]
    shares = [_repeats(files, steps)]
    for what in ("events", "users"):
        count = before[what] - after[what]
        shares.append(
            Share(
                f"lost_{what}", f"{what} that the {core}-core drops", _ratio(count, before[what]), False,
                count, before[what], what,
                f"a lower data.core (now {core}) leaves more; that of data which begin or end too early is high, too",
                lambda: steps[rounds[0] - 1 :][:EXAMPLES],
            )
        )  # fmt: skip
    return shares


def _repeats(files: Files, steps: list[dict[str, Any]]) -> Share:
    """Of the raw events where the filter drops repeats, or else of the kept ones."""
    place = next((number for number, step in enumerate(steps) if step["step"] == REPEATS), None)
    events = files["filtered/interactions"]
    if place is None:
        of, pairs = events.select(pl.len(), pairs=pl.struct("user_id", "item_id").n_unique()).collect().row(0)
    else:
        of, pairs = steps[place - 1]["events"], steps[place]["events"]
    return Share(
        "repeats", "events whose user had one with the same item before", _ratio(of - pairs, of), False, of - pairs,
        of, "events", "was an export joined with itself, or written twice?", lambda: _repeated(files["raw/reviews"]),
    )  # fmt: skip


def _repeated(reviews: pl.LazyFrame) -> list[dict[str, Any]]:
    pairs = reviews.group_by("user_id", "parent_asin").agg(pl.len().alias("events")).filter(pl.col("events") > 1)
    order = ["events", "user_id", "parent_asin"]
    return pairs.sort(order, descending=[True, False, False]).head(EXAMPLES).collect(engine="streaming").to_dicts()


def _of_times(files: Files, raw: Path, years: float) -> list[Share]:
    """Of the raw events, beside when data/raw was written: the clock would give another answer each time."""
    now = int((raw / "reviews.parquet").stat().st_mtime * 1000)
    reviews, time = files["raw/reviews"], pl.col("timestamp")
    newest = reviews.filter(time <= now).select(time.max()).collect(engine="streaming").item()
    border = None if newest is None else int(newest - years * YEAR)
    early, late = time < border if border is not None else pl.lit(False), time > now
    counts = reviews.select(of=time.count(), early=early.sum(), late=late.sum()).collect(engine="streaming")
    of, old, future = counts.row(0)

    def examples(chosen: pl.Expr, descending: bool) -> Callable[[], list[dict[str, Any]]]:
        rows = reviews.filter(chosen).select("user_id", "parent_asin", "timestamp")
        return lambda: rows.sort("timestamp", descending=descending).head(EXAMPLES).collect().to_dicts()

    return [
        Share(
            "future", "events later than when data/raw was written", _ratio(future, of), False, future, of, "events",
            "is the clock of what wrote them right, or are they orders to come? Leave them out of the export",
            examples(late, True),
        ),
        Share(
            "old", f"events older than the newest by more than {years:g} years", _ratio(old, of), False, old, of,
            "events", "are they dates of birth, or a time that was never set?", examples(early, False),
        ),
        Share(
            "age", "days from the newest event to when data/raw was written",
            None if newest is None else (now - newest) / DAY, False, None, None, "days",
            "bring a newer export", lambda: [{"newest": newest}],
        ),
    ]  # fmt: skip


def _ratio(count: int, of: int) -> float | None:
    return count / of if of else None
