"""One file of an export: how it is written, by its content, and its wanted columns in blocks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from llmsrec.data.imports import columnar, delimited, objects
from llmsrec.data.imports.delimited import Dialect
from llmsrec.data.imports.refusals import Refusals
from llmsrec.data.imports.text import Cut, Text, head, magic, records
from llmsrec.data.threads import in_order
from llmsrec.errors import DataError, RequestError, shown

PARQUET = b"PAR1"


@dataclass(frozen=True)
class Writing:
    """How text files are written, as the user states it; None is told by content.

    Attributes:
        delimiter: one character of ASCII.
        quote: one character of ASCII, or None for files in which quotes are text.
        encoding: of the text.
    """

    delimiter: str | None = None
    quote: str | None = '"'
    encoding: str | None = None

    def __post_init__(self) -> None:
        for flag, value in (("--delimiter", self.delimiter), ("--quote", self.quote)):
            if value is not None and (len(value) != 1 or not value.isascii() or value in "\r\n\0"):
                raise RequestError(f"{flag} {shown(value)} is not one character of ASCII, such as ';' or tab.")
        if self.delimiter is not None and self.delimiter == self.quote:
            raise RequestError(f"--delimiter and --quote are both {shown(self.quote)}; they must differ.")


@dataclass
class Source:
    """A file and how it is written.

    Attributes:
        kind: delimited, json, python (a literal a line) or parquet.
        names: its columns.
        dialect: of a delimited file.
        encoding: of a text file; known for certain once it has been read.
        before: lines before the first row of a delimited file.
        types: of a JSON file's columns, by its first lines.
    """

    path: Path
    kind: str
    names: list[str]
    dialect: Dialect | None = None
    encoding: str | None = None
    before: int = 0
    types: Mapping[str, pa.DataType] | None = None

    def written(self) -> str:
        """How it is written, for people."""
        if self.kind == "parquet":
            return "parquet"
        encoding = (self.encoding or "utf-8").removesuffix("-sig").upper()
        if self.dialect is None:
            return f"{'JSON' if self.kind == 'json' else 'Python'} lines, {encoding}"
        between = delimited.DELIMITERS.get(self.dialect.delimiter, self.dialect.delimiter)
        quotes = f"quoted by {self.dialect.quote}" if self.dialect.quote else "no quotes"
        return f"fields between {between}s, {quotes}, {encoding}"


def look(path: Path, writing: Writing) -> Source:
    """What a file is, by its first bytes: parquet, JSON lines, Python literals or delimited text.

    Raises:
        DataError: none of them, or the file cannot be read.
    """
    if magic(path) == PARQUET:
        return Source(path, "parquet", columnar.names(path))
    start = head(path, writing.encoding)
    first = start.lstrip()
    if not first:
        raise DataError(f"{path} holds nothing but white space; export it again.")
    if first[0] == "[":
        raise DataError(f"{path} is one JSON array; write an object a line (`jq -c '.[]'`).")
    if first[0] == "{":
        kind = "python" if first[1:].lstrip()[:1] == "'" else "json"
        types = objects.schema(path, start, kind == "python")
        return Source(path, kind, list(types), types=types, encoding=writing.encoding)
    stated = None if writing.delimiter is None else Dialect(writing.delimiter, writing.quote)
    names, dialect, before = delimited.header(path, start, stated, writing.quote)
    return Source(path, "delimited", names, dialect, writing.encoding, before)


def tables(source: Source, columns: Mapping[str, str], refusals: Refusals) -> Iterator[pa.Table]:
    """The wanted columns as text (`category`: a list of text), in the order of rows, and `line` (int64) of each.

    One thread reads and another parses. A row that cannot be read goes to `refusals`.

    Args:
        columns: name in the table -> column.

    Raises:
        DataError: see the readers; names file and line.
    """
    if source.kind == "parquet":
        yield from columnar.tables(source.path, columns)
        return
    text = Text(source.path, source.encoding)
    cut, parse = _reader(source, columns)

    def rows() -> Iterator[tuple[int, bytes]]:
        """The blocks without what comes before the first row."""
        for line, block in records(text, cut):
            if line <= source.before:
                header = source.before - line + 1  # lines of it in this block, or all of the block
                lines = block.split(b"\n", header)
                block, line = lines[-1] if len(lines) > header else b"", source.before + 1
            yield line, block

    def parsed(of: tuple[int, bytes]) -> tuple[pa.Table, Refusals]:
        apart = Refusals(refusals.skip, refusals.files)
        return parse(of[1], of[0], apart), apart

    for table, apart in in_order(parsed, rows(), threads=1):
        refusals.join(apart)  # in the order of blocks, whatever the thread has read ahead
        yield table
    source.encoding = text.encoding


Parse = Callable[[bytes, int, Refusals], pa.Table]


def _reader(source: Source, columns: Mapping[str, str]) -> tuple[Cut, Parse]:
    """How to cut a text into whole rows, and to parse those that begin at a line."""
    path = source.path
    if source.kind == "python":
        return objects.cut, lambda data, line, bad: objects.parse_lines(data, columns, path, line, bad, python=True)
    if source.kind == "json":
        types = source.types or {}
        return objects.cut, lambda data, line, bad: objects.parse_block(data, columns, types, path, line, bad)
    assert source.dialect is not None
    places = {name: source.names.index(column) for name, column in columns.items()}
    wanted, dialect = delimited.Columns(len(source.names), places), source.dialect

    def parse(data: bytes, line: int, bad: Refusals) -> pa.Table:
        table = delimited.parse_block(data, dialect, wanted, path, line, bad)
        return _listed(table) if "category" in columns else table

    return partial(delimited.cut, dialect=dialect, path=path), parse


def _listed(table: pa.Table) -> pa.Table:
    """The category of a delimited file as a list of one."""
    place = table.schema.get_field_index("category")
    values = table["category"].combine_chunks()
    offsets = pa.array(range(len(values) + 1), pa.int32())
    return table.set_column(place, "category", pa.ListArray.from_arrays(offsets, values))
