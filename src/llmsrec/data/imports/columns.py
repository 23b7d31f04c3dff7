"""Which column of a file is the user, the item, the time: as stated, or an error that helps to state it."""

import difflib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmsrec.errors import RequestError

# Role -> flag, in the order in which messages name them.
FLAGS = {
    "user": "--user",
    "item": "--item",
    "time": "--time",
    "title": "--title",
    "rating": "--rating",
    "category": "--item-category",
    "store": "--store",
}
REQUIRED = ("user", "item", "time")
OF_ITEMS = ("title", "category", "store")  # these lie in the catalogue, if it is a file of its own

# What columns are often called; a guess is shown, never taken.
USUAL = {
    "user": ("user", "customer", "kunde", "kunden", "client", "buyer", "member", "visitor", "account", "reviewer"),
    "item": ("item", "artikel", "sku", "product", "produkt", "asin", "article", "goods", "movie", "isbn", "ean"),
    "time": ("time", "date", "datum", "zeit", "bestellt", "created", "ordered", "purchased", "when"),
    "title": ("title", "titel", "bezeichnung", "name", "description", "beschreibung"),
}


def resolve(path: Path, names: Sequence[str], stated: Mapping[str, str], flags: Mapping[str, str]) -> dict[str, str]:
    """Role -> column of the file, for what is stated.

    A column may be stated without the type that RecBole's headers add (`user_id` for `user_id:token`).

    Args:
        flags: role -> flag, for messages.

    Raises:
        RequestError: a column is not in the file, or is in it twice.
    """
    resolved = {}
    for role, column in stated.items():
        matching = [name for name in names if column in (name, name.partition(":")[0])]
        if not matching:
            raise RequestError(
                f"{flags[role]} {shlex.quote(column)}: {path} has no such column{_nearest(column, names)}; its columns "
                f"are {listed(names)}."
            )
        if len(matching) > 1:
            raise RequestError(
                f"{flags[role]} {shlex.quote(column)}: {path} has {len(matching)} columns of this name; rename all but "
                "the one that is meant."
            )
        resolved[role] = matching[0]
    return resolved


def completed(
    stated: Mapping[str, str], names: Sequence[str], required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, str]:
    """Role -> column: those stated, and guesses for the roles that are not.

    Args:
        names: the columns of the file.
        required: roles that get words in place of a column where none can be guessed.
        optional: roles that are then left out.
    """
    chosen = dict(stated)
    for role in (*required, *optional):
        guess = guessed(role, [name for name in names if name not in chosen.values()])
        if role not in chosen and (guess or role in required):
            chosen[role] = guess or f"<the column of {role}s>"
    return chosen


def missing(path: Path, names: Sequence[str], stated: Mapping[str, str], command: str) -> RequestError:
    """The error for a file of events whose user, item or time nobody has stated.

    Args:
        command: one to begin with.
    """
    absent = [role for role in REQUIRED if role not in stated]
    return RequestError(
        f"{path}: state with {', '.join(FLAGS[role] for role in absent)} which column is the "
        f"{' and the '.join(absent)}. Its columns are {listed(names)}. Perhaps: {command}"
    )


def guessed(role: str, names: Sequence[str]) -> str | None:
    """The column whose name is most like what this role is often called; None if no name holds such a word."""
    for exact in (True, False):
        for word in USUAL[role]:
            for name in names:
                bare = name.partition(":")[0].lower().removesuffix("_id").removesuffix("id").strip(" _-")
                if bare == word or (not exact and word in name.lower()):
                    return name
    return None


def listed(names: Sequence[str]) -> str:
    """Columns, for a message."""
    texts = [f'"{name}"' if any(character in name for character in ", ") else name for name in names[:40]]
    return ", ".join(texts) + (f" and {len(names) - 40} more" if len(names) > 40 else "")


def _nearest(column: str, names: Sequence[str]) -> str:
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(column.lower(), lower, n=1)
    return f" (the nearest is {listed([lower[near[0]]])})" if near else ""
