"""Exports whose columns are known: by name (`--format`) or by what the first lines hold."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TYPED = re.compile(r"[^:]+:(token|float)(_seq)?")  # a column of RecBole's atomic files


@dataclass(frozen=True)
class Format:
    """A published layout.

    Attributes:
        name: for --format.
        events: role -> column of a file of events.
        items: role -> column of a catalogue; the role `item` is its id.
        marks: columns that an events file of this kind has, for telling it; empty if only --format names it.
    """

    name: str
    events: Mapping[str, str]
    items: Mapping[str, str]
    marks: frozenset[str]


AMAZON = {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"}
AMAZON_ITEMS = {"item": "asin", "title": "title", "store": "brand"}
AMAZON_2023 = {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"}
AMAZON_2023_ITEMS = {"item": "parent_asin", "title": "title", "store": "store", "category": "categories"}

# In the order in which they are tried.
FORMATS = {
    each.name: each
    for each in (
        Format("recbole", {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"},
               {"item": "item_id"}, frozenset()),
        Format("amazon-2018", AMAZON, {**AMAZON_ITEMS, "category": "category"},
               frozenset({"reviewerID", "asin", "unixReviewTime", "verified"})),
        Format("amazon-2014", AMAZON, {**AMAZON_ITEMS, "category": "categories"},
               frozenset({"reviewerID", "asin", "unixReviewTime"})),
        Format("amazon-2023", AMAZON_2023, AMAZON_2023_ITEMS,
               frozenset({"user_id", "parent_asin", "timestamp", "verified_purchase"})),
        Format("amazon-2023-5core", AMAZON_2023, AMAZON_2023_ITEMS, frozenset({"user_id", "parent_asin", "timestamp"})),
    )
}  # fmt: skip


def is_recbole(names: Sequence[str]) -> bool:
    """Whether a header has RecBole's types."""
    return len(names) > 0 and all(TYPED.fullmatch(name) for name in names)


def recognised(names: Sequence[str], kind: str) -> Format | None:
    """The format that an events file with these columns has; `kind` as in `sources.Source`."""
    if is_recbole(names):
        return FORMATS["recbole"]
    matching = (known for known in FORMATS.values() if known.marks and known.marks <= set(names))
    return next((known for known in matching if kind != "delimited" or known.name == "amazon-2023-5core"), None)


def columns(known: Format, names: Sequence[str], catalogue: bool) -> dict[str, str]:
    """Role -> column as the file names it, for those roles of the format that the file has.

    RecBole names no column of titles: the first with `title` in its name counts, or else with `name`.
    """
    table = known.items if catalogue else known.events
    bare = {name.partition(":")[0]: name for name in reversed(names)} if known.name == "recbole" else {}
    taken = {role: bare.get(name, name) for role, name in table.items() if bare.get(name, name) in names}
    if known.name == "recbole" and catalogue:
        titles = [name for word in ("title", "name") for name in names if word in name.partition(":")[0].lower()]
        taken |= {"title": titles[0]} if titles else {}
    return taken
