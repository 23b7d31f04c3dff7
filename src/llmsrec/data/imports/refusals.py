"""Rows that cannot be imported: an error, or counted where the user asked for that."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmsrec.errors import DataError

EXAMPLES = 5


@dataclass(frozen=True)
class Refusal:
    """A row that cannot be read, and what to do about it."""

    path: Path
    line: int
    reason: str
    remedy: str


class Refusals:
    """What happens to rows that cannot be read.

    Attributes:
        count: rows that were left out.
        first: the first of them, by file and line, however they were met.
    """

    def __init__(self, skip: bool, files: Sequence[Path] = ()) -> None:
        """
        Args:
            skip: leave such rows out and count them; False makes the first one an error (`check`).
            files: in the order in which rows are counted; one file need not be named.
        """
        self.skip = skip
        self.files = list(files)
        self.count = 0
        self.first: list[Refusal] = []

    @property
    def examples(self) -> list[dict[str, Any]]:
        """The first of them, for the manifest."""
        return [{"file": each.path.name, "line": each.line, "reason": each.reason} for each in self.first]

    def add(self, path: Path, line: int, reason: str, remedy: str) -> None:
        """Refuse a row."""
        self.more(1, [Refusal(path, line, reason, remedy)])

    def join(self, later: "Refusals") -> None:
        """Add what was refused elsewhere."""
        self.more(later.count, later.first)

    def more(self, count: int, first: Sequence[Refusal]) -> None:
        """Add `count` rows, of which the first are `first`."""
        self.count += count
        self.first = sorted([*self.first, *first], key=self._place)[:EXAMPLES]

    def check(self) -> None:
        """Raise DataError for the first row that was refused, if rows are not to be left out."""
        if self.first and not self.skip:
            row = self.first[0]
            raise DataError(
                f"{row.path}, line {row.line}: {row.reason}; {row.remedy}, or leave such rows out with --skip-bad."
            )

    def _place(self, row: Refusal) -> tuple[int, int]:
        return self.files.index(row.path) if row.path in self.files else 0, row.line
