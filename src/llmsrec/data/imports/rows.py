"""The rows of an export as the pipeline wants them: ids and times that are there, ratings that are numbers."""

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa

from llmsrec.data.imports.columns import REQUIRED
from llmsrec.data.imports.refusals import EXAMPLES, Refusal, Refusals
from llmsrec.errors import shown

# What exports write where there is nothing; an order without a customer must not become the customer "NULL".
MISSING = ("", "NULL", "null", r"\N", "NaN", "nan", "None")
LOWEST, HIGHEST = 0, 5  # ratings that the checks let pass


def tidy(table: pa.Table) -> pl.DataFrame:
    """The table with text stripped of white space around it, and null where there is nothing."""
    frame = pl.DataFrame(pl.from_arrow(table))
    texts = [pl.col(name).str.strip_chars() for name, kind in frame.schema.items() if kind == pl.String]
    frame = frame.with_columns(texts)
    return frame.with_columns(
        pl.when(~pl.col(name).is_in(MISSING)).then(pl.col(name)).alias(name)
        for name, kind in frame.schema.items()
        if kind == pl.String
    )


def whole(frame: pl.DataFrame, path: Path, columns: Mapping[str, str], refusals: Refusals) -> pl.DataFrame:
    """The rows that have an id of user and item and a time, with ratings (where there are any) as float32.

    Args:
        columns: role -> column of the file, for messages.
        refusals: gets the others.
    """
    reasons = [
        pl.when(pl.col(role).is_null()).then(pl.lit(f"the {role} (column {columns[role]}) is empty"))
        for role in REQUIRED
        if role in frame.columns
    ]
    frame = refuse(
        frame, pl.coalesce(reasons), path, refusals, lambda line: "", f"fill in {', '.join(REQUIRED)} of each row"
    )
    if "rating" not in frame.columns:
        return frame
    number = pl.col("rating").cast(pl.Float32, strict=False)
    fine = number.is_between(LOWEST, HIGHEST) | pl.col("rating").is_null()
    frame = refuse(
        frame,
        pl.when(~fine.fill_null(False)).then(pl.col("rating")),
        path,
        refusals,
        lambda value: f"the rating is {shown(value)}, not a number from {LOWEST} to {HIGHEST}",
        "leave ratings away with --rating '' (the pipeline does not use them), or mend it",
    )
    return frame.with_columns(number.alias("rating"))


def refuse(
    frame: pl.DataFrame, reason: pl.Expr, path: Path, refusals: Refusals, say: Callable[[str], str], remedy: str
) -> pl.DataFrame:
    """The rows for which `reason` (text) is null; the others go to `refusals`.

    Args:
        say: what is wrong, from the reason; empty text means that the reason says it.
    """
    marked = frame.with_columns(reason.alias("_reason"))
    bad = marked.filter(pl.col("_reason").is_not_null()).select("line", "_reason")
    if bad.height == 0:
        return frame
    rows = bad.head(EXAMPLES).rows()
    refusals.more(bad.height, [Refusal(path, line, say(value) or value, remedy) for line, value in rows])
    return marked.filter(pl.col("_reason").is_null()).drop("_reason")
