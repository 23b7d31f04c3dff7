"""What a line of Amazon Reviews 2023's raw files holds: the fields that are kept, and the plain check of one line."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llmsrec.errors import shown
from llmsrec.times import OUTSIDE, are_ms

OLDER = {"reviewerID", "asin", "unixReviewTime"}  # fields of the layouts of 2014 and 2018
IMPORT = "`llmsrec import <file> --to <folder> --category <name>` makes files of this layout"


@dataclass(frozen=True)
class Layout:
    """The fields that are kept of a kind of file, and the plain check of one line.

    Attributes:
        name: what a line is, in messages.
        schema: fields and types; a field not named here is ignored.
        required: fields that must be there and not null.
        check: takes a line's object, returns the row; raises ValueError with what is wrong and what to do.
    """

    name: str
    schema: pa.Schema
    required: tuple[str, ...]
    check: Callable[[dict[str, Any]], tuple[Any, ...]]


def check_review(line: dict[str, Any]) -> tuple[str, str, float | None, int]:
    """One review as (user_id, parent_asin, rating, timestamp); a rating that is missing is None."""
    rating, timestamp = line.get("rating"), _field(line, "timestamp")
    if rating is not None and (type(rating) not in (int, float) or not math.isfinite(rating)):
        raise ValueError(f"rating is {shown(rating)}, not a number; write it as 5.0 or leave it out")
    if type(timestamp) is not int:
        raise ValueError(
            f"timestamp is {shown(timestamp)}, not an integer; write ms since 1970 without quotes or point"
        )
    if not are_ms(timestamp):
        raise ValueError(f"timestamp is {timestamp}, {OUTSIDE}")
    return (
        _text(line, "user_id"),
        _text(line, "parent_asin"),
        None if rating is None else float(rating),
        timestamp,
    )


def check_item(line: dict[str, Any]) -> tuple[str, str | None, str | None, list[str | None] | None, str | None]:
    """One item as (parent_asin, title, store, categories, main_category).

    Of a title, a list of texts is joined with spaces. What is missing or anything else (a number, an object, a list
    that holds one) is None; a title is then counted as missing.
    """
    title, categories = line.get("title"), line.get("categories")
    parts: list[Any] = title if isinstance(title, list) else [title]
    listed = isinstance(categories, list) and all(name is None or _is_text(name) for name in categories)
    return (
        _text(line, "parent_asin"),
        " ".join(parts) if parts and all(map(_is_text, parts)) else None,
        _text_or_none(line, "store"),
        categories if listed else None,
        _text_or_none(line, "main_category"),
    )


REVIEWS = Layout(
    "event",
    pa.schema(
        [
            ("user_id", pa.string()),
            ("parent_asin", pa.string()),
            ("rating", pa.float32()),
            ("timestamp", pa.int64()),
        ]
    ),
    ("user_id", "parent_asin", "timestamp"),
    check_review,
)
ITEMS = Layout(
    "item",
    pa.schema(
        [
            ("parent_asin", pa.string()),
            ("title", pa.string()),
            ("store", pa.string()),
            ("categories", pa.list_(pa.string())),
            ("main_category", pa.string()),
        ]
    ),
    ("parent_asin",),
    check_item,
)


def _field(line: dict[str, Any], name: str) -> Any:
    if name not in line and OLDER & line.keys():
        raise ValueError(f"{name} is missing: these are the fields of 2014 and 2018 (asin, unixReviewTime); {IMPORT}")
    if name not in line:
        raise ValueError(f"{name} is missing; each line needs one. Where it has another name, {IMPORT}")
    if line[name] is None:
        raise ValueError(f"{name} is null; each line needs one")
    return line[name]


def _text(line: dict[str, Any], name: str) -> str:
    value = _field(line, name)
    if not value or not _is_text(value):
        raise ValueError(f"{name} is {shown(value)}, not a string with text in it")
    return str(value)


def _text_or_none(line: dict[str, Any], name: str) -> str | None:
    value = line.get(name)
    return value if _is_text(value) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and _is_unicode(value)


def _is_unicode(value: str) -> bool:
    """False for the half of a surrogate pair, which JSON can escape and no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in value)
