"""What the rules look at: the data aggregated once, a row for a user, an item, a file's column or a list of candidates.

Counts that an outer join leaves empty are 0, so a row that one side lacks is caught by the rules on counts: Great
Expectations skips nulls.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from llmsrec.errors import DataError

INTERACTIONS = {"user_id": "Int32", "item_id": "Int32", "timestamp": "Int64"}
SCHEMA: Mapping[str, Mapping[str, str]] = {
    "raw/reviews": {"user_id": "String", "parent_asin": "String", "rating": "Float32", "timestamp": "Int64"},
    "raw/items": {"parent_asin": "String", "title": "String", "store": "String", "categories": "List(String)"},
    "filtered/interactions": INTERACTIONS,
    "filtered/items": {
        "item_id": "Int32",
        "parent_asin": "String",
        "title": "String",
        "store": "String",
        "categories": "List(String)",
    },
    "filtered/users": {"user_id": "Int32", "raw_user_id": "String"},
    "split/train": INTERACTIONS,
    "split/valid": INTERACTIONS,
    "split/test": INTERACTIONS,
    "split/candidates": {"user_id": "Int32", "split": "String", "item_id": "Int32", "negatives": "List(Int32)"},
}
PARTS = ("train", "valid", "test")

Files = dict[str, pl.LazyFrame]


def scan(folders: Mapping[str, Path]) -> Files:
    """The files of `SCHEMA` under their names there; nothing is read yet but their schemas.

    Raises:
        DataError: a file is missing or is not parquet.
    """
    files = {}
    for name in SCHEMA:
        folder, stem = name.split("/")
        path = folders[folder] / f"{stem}.parquet"
        try:
            files[name] = pl.scan_parquet(path)
            files[name].collect_schema()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{path} is missing or not a parquet file ({error}); delete it and run `dvc repro` again."
            ) from error
    return files


def columns(files: Files) -> pl.DataFrame:
    """A row for each column that a file should have or has: `file, column, expected, found` (types; "none" without)."""
    rows = []
    for name, expected in SCHEMA.items():
        actual = {column: str(kind) for column, kind in files[name].collect_schema().items()}
        rows += [
            (name, c, expected.get(c, "none"), actual.get(c, "none")) for c in sorted(expected.keys() | actual.keys())
        ]
    return pl.DataFrame(rows, schema=["file", "column", "expected", "found"], orient="row")


def aggregate(files: Files, cuts: Mapping[str, int] | None = None) -> dict[str, pl.DataFrame]:
    """All other tables by name; the files must have the columns of `SCHEMA`.

    Args:
        cuts: see `split_users`.
    """
    return {
        "raw.reviews": raw_reviews(files["raw/reviews"]),
        "raw.items": files["raw/items"].select(_filled("parent_asin")).sort("parent_asin").collect(),
        "filtered.users": filtered_users(files["filtered/interactions"], files["filtered/users"]),
        "filtered.items": filtered_items(files["filtered/interactions"], files["filtered/items"]),
        "split.users": split_users(files, cuts),
        "split.candidates": candidates(files),
    }


def raw_reviews(reviews: pl.LazyFrame) -> pl.DataFrame:
    """A row for an item: how many events, how many without user or time or with NaN as rating, and the ranges."""
    return (
        reviews.group_by(_filled("parent_asin"))
        .agg(
            pl.len().alias("events"),
            _filled("user_id").null_count().alias("without_user"),
            pl.col("rating").is_nan().sum().alias("rating_nan"),
            pl.col("timestamp").null_count().alias("without_time"),
            pl.col("rating").min().alias("rating_min"),
            pl.col("rating").max().alias("rating_max"),
            pl.col("timestamp").min().alias("earliest"),
            pl.col("timestamp").max().alias("latest"),
        )
        .sort("parent_asin", nulls_last=True)
        .collect(engine="streaming")
    )


def filtered_users(interactions: pl.LazyFrame, users: pl.LazyFrame) -> pl.DataFrame:
    """A row for a user of either file.

    `first_row` is the place of the user's first event in the file, `start` what it is if users follow one another.
    """
    of_user = (
        interactions.with_row_index("row")
        .group_by("user_id")
        .agg(
            pl.len().alias("events"),
            pl.col("item_id").n_unique().alias("items"),
            pl.col("timestamp").null_count().alias("without_time"),
            (pl.col("timestamp").diff() < 0).sum().alias("steps_back"),
            pl.col("row").min().alias("first_row"),
        )
    )
    table = _numbered(of_user.join(users, on="user_id", how="full", coalesce=True), "user_id").collect()
    table = table.with_columns(pl.col("events", "items", "without_time", "steps_back").fill_null(0))
    return table.with_columns(start=pl.col("events").cum_sum() - pl.col("events"))


def filtered_items(interactions: pl.LazyFrame, items: pl.LazyFrame) -> pl.DataFrame:
    """A row for an item of either file; `untidy` is 1 where the title is not words with single spaces between."""
    of_item = interactions.group_by("item_id").agg(pl.len().alias("events"))
    table = _numbered(of_item.join(items, on="item_id", how="full", coalesce=True), "item_id").collect()
    words = pl.col("title").str.replace_all(r"\s+", " ").str.strip_chars()
    untidy = (pl.col("title") != words) | (words == "")
    return table.with_columns(
        pl.col("events").fill_null(0),
        untidy.fill_null(False).cast(pl.Int64).alias("untidy"),
    )


def split_users(files: Files, cuts: Mapping[str, int] | None) -> pl.DataFrame:
    """A row for a user of any split or of the filtered data.

    Columns: events in `train`, `valid` and `test`; pairs of user and item with events that are `lost` (more filtered
    than in the splits), `foreign` (in a split, not filtered) or `shared` (in two splits, and more than filtered);
    `time_moved` (ms between the sums of times); the splits' times; each held-out item beside the one that the order of
    events asks for, and how many events it asks for in each part; rows of `candidates`.

    Args:
        cuts: where valid and test begin (ms), of a split by time.
    """
    interactions = files["filtered/interactions"]
    sources = {"filtered": interactions, **{part: files[f"split/{part}"] for part in PARTS}}
    events = pl.concat([frame.with_columns(source=pl.lit(name)) for name, frame in sources.items()])
    held = pl.sum_horizontal(*PARTS)  # events of a pair of user and item in the splits,
    splits = pl.sum_horizontal(pl.col(part) > 0 for part in PARTS)  # and in how many splits they are
    pairs = (
        events.group_by("user_id", "item_id")
        .agg((pl.col("source") == name).sum().cast(pl.Int64).alias(name) for name in sources)
        .group_by("user_id")
        .agg(
            *(pl.col(part).sum() for part in PARTS),
            (pl.col("filtered") > held).sum().alias("lost"),
            (pl.col("filtered") == 0).sum().alias("foreign"),
            ((held > pl.col("filtered")) & (splits > 1)).sum().alias("shared"),
        )
    )
    of = {name: pl.col("timestamp").filter(pl.col("source") == name) for name in sources}
    times = events.group_by("user_id").agg(
        (of["filtered"].sum() - sum(of[part].sum() for part in PARTS)).alias("time_moved"),
        of["train"].max().alias("train_last"),
        of["valid"].min().alias("valid_first"),
        of["valid"].max().alias("valid_last"),
        of["test"].min().alias("test_first"),
    )
    ends = interactions.group_by("user_id").agg(**(_expected_last() if cuts is None else _expected_after(cuts)))
    rows = files["split/candidates"].group_by("user_id").agg(pl.len().alias("candidates"))
    table = pairs.join(times, on="user_id", how="left", nulls_equal=True)
    for other in (ends, _held_out(files, "valid"), _held_out(files, "test"), rows):
        table = table.join(other, on="user_id", how="left", nulls_equal=True)
    lists = (pl.col("valid_expected").is_not_null() + pl.col("test_expected").is_not_null()).alias(
        "candidates_expected"
    )
    table = table.with_columns(pl.col("candidates").fill_null(0), lists.cast(pl.Int64))
    return table.sort("user_id", nulls_last=True).collect()


def _expected_last() -> dict[str, pl.Expr]:
    """The held-out items of a user's events, and how many training events there are, of leave-last-out."""
    return {
        "valid_expected": pl.col("item_id").slice(-2, 1).first(),
        "test_expected": pl.col("item_id").last(),
        "train_expected": pl.len().cast(pl.Int64) - 2,
    }


def _expected_after(cuts: Mapping[str, int]) -> dict[str, pl.Expr]:
    """The same of a split by time: the first event from a cut on, if there are events before the cut."""
    time = pl.col("timestamp")
    ends = {"valid": time < cuts["test"], "test": pl.lit(True)}
    return {
        **{
            f"{name}_expected": pl.when((time < cuts[name]).any()).then(
                pl.col("item_id").filter((time >= cuts[name]) & ends[name]).first()
            )
            for name in ends
        },
        "train_expected": (time < cuts["valid"]).sum().cast(pl.Int64),
    }


def candidates(files: Files) -> pl.DataFrame:
    """A row for a list of candidates: counts, range, overlap with the history, and the positive by the split."""
    history = files["filtered/interactions"].group_by("user_id").agg(pl.col("item_id").alias("history"))
    positives = pl.concat(
        [
            _held_out(files, part).select("user_id", split=pl.lit(part), expected=f"{part}_item")
            for part in ("valid", "test")
        ]
    )
    negatives = pl.col("negatives")
    return (
        files["split/candidates"]
        .join(history, on="user_id", how="left")
        .join(positives, on=["user_id", "split"], how="left")
        .select(
            "user_id",
            pl.col("split").fill_null("null"),
            "item_id",
            "expected",
            negatives.list.len().fill_null(0).alias("count"),
            (negatives.list.len() - negatives.list.n_unique()).fill_null(0).alias("repeated"),
            negatives.list.eval(pl.element().is_null()).list.sum().fill_null(0).alias("nulls"),
            negatives.list.min().alias("lowest"),
            negatives.list.max().alias("highest"),
            negatives.list.set_intersection("history").list.len().fill_null(0).alias("in_history"),
        )
        .sort("split", "user_id", nulls_last=True)
        .collect()
    )


def _held_out(files: Files, part: str) -> pl.LazyFrame:
    """`user_id` and the item of its (first) event of valid or test."""
    return files[f"split/{part}"].group_by("user_id").agg(pl.col("item_id").first().alias(f"{part}_item"))


def _numbered(frame: pl.LazyFrame, key: str) -> pl.LazyFrame:
    """Rows by `key` with their 1-based `position`, which a dense key equals."""
    return frame.sort(key, nulls_last=True).with_row_index("position", offset=1)


def _filled(column: str) -> pl.Expr:
    """A text column whose empty texts are null."""
    return pl.when(pl.col(column).str.len_bytes() > 0).then(column).alias(column)
