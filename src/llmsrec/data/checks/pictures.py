"""A small picture of each table: how many of its rows are of which kind."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)  # of numbers of events: a few rows have most of them


@dataclass(frozen=True)
class Picture:
    """Bars.

    Attributes:
        title: what is counted.
        bars: label -> count.
    """

    title: str
    bars: Mapping[str, int]


def draw(frames: Mapping[str, pl.DataFrame]) -> dict[str, Picture]:
    """A picture of each of `tables.aggregate`'s tables."""
    reviews, items, splits = frames["raw.reviews"], frames["raw.items"], frames["split.users"]
    bought = reviews.select("parent_asin").drop_nulls()
    catalogue = items.select(pl.col("parent_asin").unique()).drop_nulls()
    common = bought.join(catalogue, on="parent_asin", how="semi").height
    lists = frames["split.candidates"]["split"].value_counts().sort("split").rows()
    return {
        "raw.reviews": Picture("Items by their number of events", _histogram(reviews["events"])),
        "raw.items": Picture(
            "Items, by where they are named",
            {
                "in the catalogue, with events": common,
                "in the catalogue alone": catalogue.height - common,
                "in events alone": bought.height - common,
            },
        ),
        "filtered.users": Picture("Users by their number of events", _histogram(frames["filtered.users"]["events"])),
        "filtered.items": Picture("Items by their number of events", _histogram(frames["filtered.items"]["events"])),
        "split.users": Picture(
            "events by split", {part: int(splits[part].sum()) for part in ("train", "valid", "test")}
        ),
        "split.candidates": Picture("Lists by split", {str(split): count for split, count in lists}),
    }


def _histogram(numbers: pl.Series) -> dict[str, int]:
    """Counts between `EDGES`, from the first to the last that has one."""
    bars = {}
    for low, high in zip((0, *EDGES), (*EDGES, None), strict=True):
        name = f"{low:,} or more" if high is None else f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}"
        bars[name] = int((numbers >= low).sum() if high is None else numbers.is_between(low, high - 1).sum())
    filled = [place for place, count in enumerate(bars.values()) if count]
    return dict(list(bars.items())[filled[0] : filled[-1] + 1]) if filled else {}
