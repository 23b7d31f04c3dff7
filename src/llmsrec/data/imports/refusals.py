"""Rows that cannot be imported: an error, or counted where the user asked for that."""

from pathlib import Path
from typing import Any

from llmsrec.errors import DataError

EXAMPLES = 5


class Refusals:
    """What happens to a row that cannot be read.

    Attributes:
        count: rows that were left out.
        examples: the first of them, each with file, line and reason.
    """

    def __init__(self, skip: bool) -> None:
        """
        Args:
            skip: leave such rows out and count them; False makes the first one an error.
        """
        self.skip = skip
        self.count = 0
        self.examples: list[dict[str, Any]] = []

    def add(self, path: Path, line: int, reason: str, remedy: str) -> None:
        """Refuse a row.

        Raises:
            DataError: rows are not to be left out.
        """
        if not self.skip:
            raise DataError(f"{path}, line {line}: {reason}; {remedy}, or leave such rows out with --skip-bad.")
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append({"file": path.name, "line": line, "reason": reason})

    def join(self, later: "Refusals") -> None:
        """Add what was refused elsewhere."""
        self.more(later.count, later.examples)

    def more(self, count: int, examples: list[dict[str, Any]]) -> None:
        """Add `count` rows, of which the first are `examples`."""
        self.count += count
        self.examples = (self.examples + examples)[:EXAMPLES]
