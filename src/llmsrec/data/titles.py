"""Titles as plain text: what a prompt may hold."""

import html

import polars as pl

UNTITLED = "Untitled item"

SPACES = r"[\s\p{Cc}\p{Zl}\p{Zp}]+"
INVISIBLE = r"[\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]"  # soft hyphens, zero widths, changes of direction


def clean(titles: pl.Series) -> pl.Series:
    """Unescape HTML entities, drop invisible characters, make any run of white space or control characters one space.

    A title that is null, or empty after that, becomes `UNTITLED`. Nothing else changes: brackets, special tokens of a
    tokenizer and format strings are text like any other.
    """
    text = titles.cast(pl.String).fill_null("")
    escaped = text.str.contains("&", literal=True)
    if escaped.any():
        plain = text.filter(escaped).map_elements(unescape, return_dtype=pl.String)
        text = text.scatter(escaped.arg_true(), plain)
    text = text.str.replace_all(INVISIBLE, "").str.replace_all(SPACES, " ").str.strip_chars(" ")
    return text.replace("", UNTITLED)


def unescape(title: str) -> str:
    """Unescape until nothing changes: shops escape twice (`&amp;quot;`)."""
    while (plain := html.unescape(title)) != title:
        title = plain
    return title
