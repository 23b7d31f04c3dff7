"""Titles, and the catalogue's other texts, as plain text: what a prompt may hold."""

import html
import re

import polars as pl

UNTITLED = "Untitled item"
NOTHING = ("n/a", "#n/a", "<na>", "nan", "none", "null")  # in any case: what programs write where there is no title

LONGEST = 10_000  # characters; a prompt shows a few dozen, and unescaping what is nested deep takes the square of it

SPACES = r"[\s\p{Cc}\p{Zl}\p{Zp}]+"
WORD = r"(?:^| )[0-9A-Za-z]{5,}(?: |$)"  # it is not a part of an entity, and longer than what `NOTHING` holds
ENTITY = r"&[^\t\n\f <&;]"  # how each begins; a plain "&" is most often between spaces
INVISIBLE = r"[\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]"  # soft hyphens, zero widths, changes of direction


def clean(titles: pl.Series) -> pl.Series:
    """Titles as `plain` text; one that is null, or empty or one of `NOTHING` after that, becomes `UNTITLED`."""
    text = plain(titles)
    return text.set(text.is_null() | text.str.to_lowercase().is_in(NOTHING), UNTITLED)


def plain(texts: pl.Series) -> pl.Series:
    """Unescape HTML entities, drop invisible characters, make any run of white space or control characters one space.

    A text that is empty after that becomes null; of one longer than `LONGEST`, the beginning counts. Nothing else
    changes: brackets, special tokens of a tokenizer and format strings are text like any other.
    """
    text = texts.cast(pl.String).fill_null("").str.head(LONGEST)
    escaped = text.str.contains(ENTITY)
    if escaped.any():
        unescaped = text.filter(escaped).map_elements(unescape, return_dtype=pl.String)
        text = text.scatter(escaped.arg_true(), unescaped)
    text = text.str.replace_all(INVISIBLE, "").str.replace_all(SPACES, " ").str.strip_chars(" ")
    return text.replace("", None)


def normalised(texts: pl.Series) -> pl.Series:
    """Texts as two are compared: `plain`, in lower case; one that is empty after that is "".

    Two items whose titles are equal so have one title, and generated text is the title that it equals so.
    """
    return plain(texts).fill_null("").str.to_lowercase()


def titled(titles: pl.Series) -> pl.Series:
    """Whether each title says something: False where `clean` puts `UNTITLED`."""
    text = titles.cast(pl.String).str.head(LONGEST)
    said = (text.str.contains(WORD) & ~text.str.contains(UNTITLED.split()[0], literal=True)).fill_null(False)
    unclear = (~said).arg_true()  # few, and cleaning is slow
    return said.scatter(unclear, clean(titles.gather(unclear)) != UNTITLED)


def unescape(title: str) -> str:
    """Unescape until nothing changes: shops escape twice (`&amp;quot;`)."""
    while (plain := unescape_once(title)) != title:
        title = plain
    return title


def unescape_once(title: str) -> str:
    """`html.unescape`, which fails on numbers of thousands of digits."""
    try:
        return html.unescape(title)
    except ValueError:
        # Zeros in front say nothing, and no character has a number of eight digits.
        return html.unescape(re.sub("&#[0-9]{8,}", "&#99999999", re.sub("&#0+(?=[0-9])", "&#", title)))
