"""Titles as plain text: what a prompt may hold."""

import html
import re
import string

import polars as pl

UNTITLED = "Untitled item"

DEEP = 8  # escaped so many times, a title is no longer a title: from there on the time matters
ENDS = frozenset("\t\n\f <#;")  # characters that no name goes beyond
REACH = 33  # characters behind an `&` that decide what it stands for: at most 32 of a name, and its semicolon

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


def titled(titles: pl.Series) -> pl.Series:
    """Whether each title says something: False where `clean` puts `UNTITLED`."""
    return clean(titles) != UNTITLED


def unescape(title: str) -> str:
    """Unescape until nothing changes: shops escape twice (`&amp;quot;`)."""
    for _ in range(DEEP):
        if (plain := unescape_once(title)) == title:
            return title
        title = plain
    return unescape_deep(title)


def unescape_once(title: str) -> str:
    """`html.unescape`, which fails on numbers of thousands of digits."""
    try:
        return html.unescape(title)
    except ValueError:
        # Zeros in front say nothing, and no character has a number of eight digits.
        return html.unescape(re.sub("&#[0-9]{8,}", "&#99999999", re.sub("&#0+(?=[0-9])", "&#", title)))


def unescape_deep(title: str) -> str:
    """The same result as pass after pass over the whole title, in time proportional to its length.

    A pass changes each `&` by what follows it up to the next `&`, at most `REACH` characters but for numbers. So after
    the first pass only those are looked at that have changed, or have something else behind them. Characters are
    linked, so that a replacement moves nothing.
    """
    text = list(title)
    after, before = list(range(1, len(text) + 1)), list(range(-1, len(text) - 1))
    active = [place for place, character in enumerate(text) if character == "&"]
    while active:
        heads = [(place, _head(text, after, place)) for place in active]
        changed = []
        for place, nodes in heads:  # no two of them overlap, so one's replacement changes no other's head
            old = "".join(text[node] for node in nodes)
            new = unescape_once(old)
            if new == old:
                continue
            for node, character in zip(nodes, new, strict=False):
                text[node] = character
            last, end = (nodes[len(new) - 1] if new else before[place]), after[nodes[-1]]
            if last >= 0:
                after[last] = end
            if end < len(text):
                before[end] = last
            for node in nodes[len(new) :]:
                text[node] = ""
            changed.append(place)
        active = sorted({found for place in changed if (found := _ampersand(text, before, place)) is not None})
    return "".join(text)


def _head(text: list[str], after: list[int], place: int) -> list[int]:
    """The places of an `&` and of what decides about it."""
    nodes, node, number = [place], after[place], False
    while node < len(text) and (character := text[node]) != "&":
        nodes.append(node)
        node = after[node]
        if len(nodes) == 2 and character == "#":
            number = True
        elif character in ENDS or (len(nodes) > REACH and not (number and character in string.hexdigits)):
            break
    return nodes


def _ampersand(text: list[str], before: list[int], place: int) -> int | None:
    """The nearest `&` at `place` or before it that what is at `place` can matter to."""
    for _ in range(REACH + 1):
        if place < 0 or text[place] == "&":
            break
        place = before[place]
    return place if place >= 0 and text[place] == "&" else None
