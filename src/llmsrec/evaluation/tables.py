"""Tables of words and numbers, for a terminal and as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of cells below a header; the first column is text, the others are aligned right.

    Attributes:
        title: a heading.
        header: the columns' names.
        rows: each as long as the header.
        note: what to know when reading it.
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def text(tables: Iterable[Table]) -> str:
    """All tables for a terminal, a blank line between them."""
    return "\n\n".join(_text(table) for table in tables)


def markdown(tables: Iterable[Table]) -> str:
    """All tables as Markdown; it ends with a newline."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def _text(table: Table) -> str:
    cells = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.header))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([table.title, *([table.note] if table.note else []), *(f"  {line}" for line in lines)])


def _markdown(table: Table) -> str:
    rows = [table.header, (":--", *("--:" for _ in table.header[1:])), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"### {table.title}", "", *([table.note, ""] if table.note else []), *lines])
