"""CSV and TSV as Arrow tables of text, in blocks of whole rows, each row with the number of its first line.

`parse_rows` (Python's csv module) is the meaning, `parse_block` (Arrow) its fast path. A quote opens a field only at
its beginning, two quotes inside stand for one, and only a delimiter or a line end may follow the closing one.
"""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from llmsrec.data.imports.refusals import Refusals
from llmsrec.data.imports.text import LONGEST_RECORD
from llmsrec.errors import DataError, shown

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
NEWLINE, RETURN = ord("\n"), ord("\r")


@dataclass(frozen=True)
class Dialect:
    """How rows are written: two ASCII characters; `quote` is None where quotes are text like any other."""

    delimiter: str
    quote: str | None = '"'


@dataclass(frozen=True)
class Columns:
    """Which fields of a row are wanted.

    Attributes:
        width: fields of a row.
        places: name in the table -> place in the row, from 0.
    """

    width: int
    places: dict[str, int]


def header(path: Path, start: str, dialect: Dialect | None, quote: str | None) -> tuple[list[str], Dialect, int]:
    """The names of the columns, how the file is written, and how many lines come before the first row.

    Args:
        start: the beginning of the file's text.
        dialect: as stated; None takes the one of `DELIMITERS` that cuts the header into most names.

    Raises:
        DataError: the header has fewer than two names, or is no row.
    """
    stated = dialect is not None
    skipped = 0
    if own := re.match(r"sep=(.)\r?\n", start, re.IGNORECASE):  # Excel's own first line
        dialect, skipped, start = dialect or Dialect(own[1], quote), 1, start[own.end() :]
    chosen: Dialect | None = None
    names: list[str] = []
    used = 0
    for candidate in [dialect] if dialect else [Dialect(delimiter, quote) for delimiter in DELIMITERS]:
        reader = _reader(start, candidate)
        try:
            row = next((row for row in reader if any(name.strip() for name in row)), None) or []
        except csv.Error:
            continue
        if len(row) > len(names):
            chosen, names, used = candidate, [name.strip() for name in row], reader.line_num
    if chosen is None or len(names) < 2:
        first = shown(start.partition("\n")[0].strip())
        if stated:
            raise DataError(
                f"{path}: --delimiter cuts the first line, {first}, into fewer than two columns; try another."
            )
        raise DataError(
            f"{path}: the first line, {first}, is not a header of several columns between commas, semicolons, tabs or "
            "pipes; state what is between them with --delimiter."
        )
    return names, chosen, skipped + used


def cut(data: bytes, line: int, dialect: Dialect, path: Path) -> int:
    """How many bytes at the beginning of `data` are whole rows.

    Raises:
        DataError: text after a closing quote, with the line (`line` is that of the first byte).
    """
    quote = dialect.quote
    if quote is None or quote.encode() not in data:
        return data.rfind(b"\n") + 1
    codes, quotes = _codes(data, quote)
    if not _well_formed(codes, quotes, dialect):
        return _plain_cut(data, line, dialect, path)
    ends = _ends(codes, quotes)
    return int(ends[-1]) + 1 if len(ends) else 0


def parse_block(
    data: bytes, dialect: Dialect, columns: Columns, path: Path, first_line: int, refusals: Refusals
) -> pa.Table:
    """The wanted fields of a block of whole rows and `line` (int64); equal to `parse_rows`."""
    slow = lambda: parse_rows(data, dialect, columns, path, first_line, refusals)  # noqa: E731
    if b"\0" in data or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
        return slow()
    codes, quotes = _codes(data, dialect.quote) if dialect.quote else (np.frombuffer(data, np.uint8), np.empty(0, int))
    if not _well_formed(codes, quotes, dialect):
        return slow()
    names = [str(place) for place in range(columns.width)]
    try:
        table = pc.read_csv(
            pa.BufferReader(data),
            read_options=pc.ReadOptions(use_threads=False, block_size=max(len(data), 1 << 10), column_names=names),
            parse_options=pc.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char=dialect.quote or False,
                double_quote=dialect.quote is not None,
                newlines_in_values=dialect.quote is not None,
            ),
            convert_options=pc.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=[str(place) for place in columns.places.values()],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return slow()
    lines = _first_lines(codes, quotes, first_line)
    if table.num_rows != len(lines):
        return slow()
    return table.rename_columns(list(columns.places)).append_column("line", pa.array(lines, pa.int64()))


def parse_rows(
    data: bytes, dialect: Dialect, columns: Columns, path: Path, first_line: int, refusals: Refusals
) -> pa.Table:
    """The same, one row after the other; blank lines are skipped, a row of another width is refused.

    Raises:
        DataError: a quote that is not closed or has text after it, a carriage return or a NUL byte in the wrong place.
    """
    reader = _reader(data.decode("utf-8"), dialect)
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    while True:
        line = first_line + reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise _broken(path, line, error) from error
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        if any("\0" in field for field in row):
            raise DataError(
                f"{path}, line {line} holds a NUL byte; if the file is UTF-16, say so with --encoding utf-16, else "
                "export it again."
            )
        if len(row) != columns.width:
            reason = f"it has {len(row)} fields, the header {columns.width}"
            refusals.add(path, line, reason, "put quotes around a field that holds the delimiter or a line end")
            continue
        rows.append(tuple(row[place] for place in columns.places.values()))
        lines.append(line)
    fields = list(zip(*rows, strict=True)) if rows else [()] * len(columns.places)
    table = {name: pa.array(field, pa.string()) for name, field in zip(columns.places, fields, strict=True)}
    return pa.table({**table, "line": pa.array(lines, pa.int64())})


def _reader(text: str, dialect: Dialect) -> Any:
    """A reader of Python's csv module, which has no public type."""
    csv.field_size_limit(LONGEST_RECORD)
    lines = io.StringIO(text, newline="\n")  # lines end at \n alone, and keep what they end with
    if dialect.quote is None:
        return csv.reader(lines, delimiter=dialect.delimiter, quotechar=None, quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True)


def _broken(path: Path, line: int, error: csv.Error) -> DataError:
    if "unexpected end" in str(error):
        return DataError(
            f"{path}, line {line}: a quote is opened in this row and not closed before the file ends; close it, or "
            "read quotes as text with --quote none."
        )
    if "new-line character" in str(error):
        return DataError(
            f"{path}, line {line} holds a carriage return that ends no line; write the file with \\n or \\r\\n as its "
            "line ends, or put quotes around the field."
        )
    return DataError(
        f"{path}, line {line}: text follows a closing quote in this row ({error}); double a quote that is part of a "
        "field, or read quotes as text with --quote none."
    )


def _plain_cut(data: bytes, line: int, dialect: Dialect, path: Path) -> int:
    """`cut` where a quote stands in the middle of a field: only the csv module can tell what it is."""
    whole = data.rfind(b"\n") + 1
    reader = _reader(data[:whole].decode("utf-8"), dialect)
    done = 0
    try:
        for _ in reader:
            done = reader.line_num
    except csv.Error as error:
        if "unexpected end" not in str(error):  # that row may go on in what is not read yet
            raise _broken(path, line + done, error) from error
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE)
    return int(newlines[done - 1]) + 1 if done else 0


def _codes(data: bytes, quote: str) -> tuple[np.ndarray, np.ndarray]:
    """The bytes, and the places of quotes."""
    codes = np.frombuffer(data, np.uint8)
    return codes, np.flatnonzero(codes == ord(quote))


def _well_formed(codes: np.ndarray, quotes: np.ndarray, dialect: Dialect) -> bool:
    """Whether quotes open and close in turn: each odd one begins a field (or is doubled), each even one ends it."""
    if len(quotes) == 0:
        return True
    neighbours = np.zeros(256, bool)
    neighbours[[ord(dialect.delimiter), NEWLINE, ord(dialect.quote or '"')]] = True
    opening, closing = quotes[0::2], quotes[1::2]
    opens = neighbours[codes[opening - 1]] | (opening == 0)
    following = np.minimum(closing + 1, len(codes) - 1)
    closes = neighbours[codes[following]] | (codes[following] == RETURN) | (closing == len(codes) - 1)
    return bool(opens.all() and closes.all())


def _ends(codes: np.ndarray, quotes: np.ndarray) -> np.ndarray:
    """The places of line ends that end a row: those outside quotes."""
    newlines = np.flatnonzero(codes == NEWLINE)
    return newlines if len(quotes) == 0 else newlines[np.searchsorted(quotes, newlines) % 2 == 0]


def _first_lines(codes: np.ndarray, quotes: np.ndarray, first_line: int) -> np.ndarray:
    """The number of the first line of each row that is not blank."""
    ends = _ends(codes, quotes)
    if len(codes) and (len(ends) == 0 or ends[-1] != len(codes) - 1):
        ends = np.append(ends, len(codes))  # the last row has no line end
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts
    blank = (lengths == 0) | ((lengths == 1) & (codes[np.minimum(starts, len(codes) - 1)] == RETURN))
    if len(quotes) == 0:
        return first_line + np.flatnonzero(~blank)
    newlines = np.flatnonzero(codes == NEWLINE)
    return first_line + np.searchsorted(newlines, starts)[~blank]
