"""JSON lines, plain or gzip, as Arrow tables: a file in blocks of whole lines, a block by Arrow or line by line.

Each block is parsed by Arrow; one that Arrow, or the checks after it, do not accept is read again line by line:
`parse_lines` is the meaning, `parse_block` is its fast path.
"""

import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from isal import igzip
from isal.igzip_lib import IsalError

from llmsrec.data.layouts import Layout
from llmsrec.errors import DataError, json_in_words, shown
from llmsrec.times import are_ms

READ = 1 << 20  # bytes of a file at a time
LONGEST_LINE = 1 << 26  # bytes; a longer one is not a review but a file without lines


class Block(NamedTuple):
    """Whole lines of a file: the number of the first one (from 1), how many there are, and their bytes."""

    first: int
    size: int
    lines: bytes


def blocks(path: Path, size: int, digest: Any = None) -> Iterator[Block]:
    """A file in blocks of about `size` bytes.

    Args:
        digest: of hashlib; gets the bytes of the file, so that it need not be read again.

    Raises:
        DataError: the file cannot be read, its gzip stream is truncated or damaged, or a line has no end.
    """
    line, rest = 1, b""
    try:
        with _open(path, digest) as stream:
            read = stream.read(size + len(BOM_UTF8)).removeprefix(BOM_UTF8)
            while read:
                cut = read.rfind(b"\n") + 1
                if cut:
                    lines = b"".join((rest, memoryview(read)[:cut]))
                    newlines = int(np.count_nonzero(np.frombuffer(lines, np.uint8) == ord("\n")))
                    yield Block(line, newlines, lines)
                    line += newlines
                    rest = read[cut:]
                else:
                    rest += read
                if len(rest) > LONGEST_LINE:
                    raise DataError(
                        f"{path}, line {line} is longer than {LONGEST_LINE >> 20} MB; write one JSON object a line."
                    )
                read = stream.read(size)
    except (OSError, EOFError, IsalError) as error:  # type: ignore[misc]  # isal's stub has an instance for the class
        raise DataError(
            f"{path} cannot be read to its end, what is wrong comes after line {line}: {error}. If it is a truncated "
            "or damaged gzip file (`gzip --test` tells), fetch it again."
        ) from error
    if rest:
        yield Block(line, 1, rest)


class _DigestedFile(io.FileIO):
    """A file whose bytes go to a digest, too."""

    def __init__(self, path: Path, digest: Any) -> None:
        super().__init__(path)
        self._digest = digest

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if self._digest is not None:
            self._digest.update(memoryview(buffer)[:count])
        return count


@contextmanager
def _open(path: Path, digest: Any) -> Iterator[IO[bytes]]:
    """The file, decompressed if its content is gzip, whatever its name."""
    with io.BufferedReader(_DigestedFile(path, digest), READ) as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with igzip.open(file, "rb") as stream:
                yield stream
        else:
            yield file


def parse_block(block: Block, layout: Layout, path: Path) -> pa.Table:
    """Rows of a block; equal to `parse_lines`, and twenty times as fast where nothing is wrong."""
    lines = block.lines
    if re.match(rb"\s*\{", lines):  # Arrow 25 crashes on a block that begins with the value null
        try:
            lines.decode("utf-8")  # Arrow does not look at the encoding of fields that it skips
            table = pj.read_json(
                pa.BufferReader(lines),
                read_options=pj.ReadOptions(use_threads=False, block_size=max(len(lines), 1 << 10)),
                parse_options=pj.ParseOptions(explicit_schema=layout.schema, unexpected_field_behavior="ignore"),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError):
            pass
        else:
            if table.num_rows == block.size and _is_clean(table, layout):
                return table
    return parse_lines(lines, layout, path, block.first)


def parse_lines(lines: bytes, layout: Layout, path: Path, first_line: int) -> pa.Table:
    """Rows of a block, one line after the other; blank lines are skipped.

    Raises:
        DataError: the first line that is not UTF-8, not a JSON object, or fails the layout's check.
    """
    rows = []
    for number, line in enumerate(lines.removesuffix(b"\n").split(b"\n"), start=first_line):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
            if not isinstance(value, dict):
                raise ValueError(f"it holds {shown(value)}, not an object; write one JSON object a line")
            rows.append(layout.check(value))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number} is not UTF-8: byte {line[error.start : error.start + 1]!r} at {error.start}; "
                "convert the file to UTF-8."
            ) from error
        except json.JSONDecodeError as error:
            if line.startswith(BOM_UTF8):  # of a file that was put behind another one
                raise DataError(
                    f"{path}, line {number} begins with a byte-order mark (the bytes EF BB BF), which only a file may; "
                    "remove these three bytes."
                ) from error
            raise DataError(
                f"{path}, line {number} is not valid JSON: {json_in_words(error)}; mend or remove the line."
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: {error}.") from error
    columns = zip(*rows, strict=True) if rows else [()] * len(layout.schema)
    return pa.table(
        [pa.array(column, kind.type) for column, kind in zip(columns, layout.schema, strict=True)], schema=layout.schema
    )


def _is_clean(table: pa.Table, layout: Layout) -> bool:
    """Whether each required field is there, text is not empty, and numbers are within their range."""
    if any(table[name].null_count for name in layout.required):
        return False
    for name in layout.required:
        column = table[name]
        if pa.types.is_string(column.type) and pc.min(pc.binary_length(column)).as_py() == 0:
            return False
        if pa.types.is_integer(column.type):
            smallest, largest = pc.min_max(column).values()
            if not are_ms(smallest.as_py(), largest.as_py()):
                return False
    numbers = (column for column in table.columns if pa.types.is_floating(column.type))
    return all(pc.all(pc.is_finite(column), min_count=0).as_py() for column in numbers)
