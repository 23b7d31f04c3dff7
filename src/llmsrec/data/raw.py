"""Amazon Reviews 2023's raw layout (JSON lines, plain or gzip) to parquet with the few fields that the pipeline needs.

A file is read in blocks of whole lines, so memory is bounded by the block and not by the file. Each block is parsed by
Arrow; one that Arrow, or the checks after it, do not accept is read again line by line: `parse_lines` is the meaning,
`parse_block` is its fast path.
"""

import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq
from tqdm import tqdm

from llmsrec.errors import DataError
from llmsrec.files import atomic, sha256, write_json

BLOCK = 1 << 23  # bytes of a block after decompression; from 32 MB on, each allocation costs its page faults again
LONGEST_LINE = 1 << 26  # bytes; a longer one is not a review but a file without lines

# Times outside are not milliseconds: seconds of any year before 2109 lie below, microseconds above.
EARLIEST = 631_152_000_000  # 1990-01-01, ms
LATEST = 4_102_444_800_000  # 2100-01-01, ms


@dataclass(frozen=True)
class Layout:
    """The fields that are kept of a kind of file, and the plain check of one line.

    Attributes:
        name: what a line is, in messages.
        schema: fields and types; a field not named here is ignored.
        required: fields that must be there and not null.
        check: takes a line's object, returns the row; raises ValueError with what is wrong and what to do.
    """

    name: str
    schema: pa.Schema
    required: tuple[str, ...]
    check: Callable[[dict[str, Any]], tuple[Any, ...]]


def check_review(line: dict[str, Any]) -> tuple[str, str, float, int]:
    """One review as (user_id, parent_asin, rating, timestamp)."""
    rating, timestamp = _field(line, "rating"), _field(line, "timestamp")
    if type(rating) not in (int, float) or not math.isfinite(rating):
        raise ValueError(f"rating is {_shown(rating)}, not a number; write it as 5.0")
    if type(timestamp) is not int:
        raise ValueError(
            f"timestamp is {_shown(timestamp)}, not an integer; write ms since 1970 without quotes or point"
        )
    if not EARLIEST <= timestamp <= LATEST:
        raise ValueError(f"timestamp is {timestamp}, outside the years 1990 to 2100; it must be ms since 1970")
    return _text(line, "user_id"), _text(line, "parent_asin"), float(rating), timestamp


def check_item(line: dict[str, Any]) -> tuple[str, str | None]:
    """One item as (parent_asin, title); a title that is missing or not text is None."""
    title = line.get("title")
    return _text(line, "parent_asin"), title if isinstance(title, str) and _is_unicode(title) else None


REVIEWS = Layout(
    "review",
    pa.schema(
        [
            ("user_id", pa.string()),
            ("parent_asin", pa.string()),
            ("rating", pa.float32()),
            ("timestamp", pa.int64()),
        ]
    ),
    ("user_id", "parent_asin", "rating", "timestamp"),
    check_review,
)
ITEMS = Layout("item", pa.schema([("parent_asin", pa.string()), ("title", pa.string())]), ("parent_asin",), check_item)


def find(folder: Path, category: str) -> tuple[Path, Path]:
    """The files of reviews and of items of a category, `.jsonl` or `.jsonl.gz`.

    Raises:
        DataError: the folder or a file is not there, is empty, or is there both plain and compressed.
    """
    if not folder.is_dir():
        raise DataError(f"data.dir: {folder} is not a folder; set it to where {category}.jsonl[.gz] lies.")
    return _one(folder, category), _one(folder, f"meta_{category}")


def ingest(reviews: Path, items: Path, out: Path, origin: dict[str, Any]) -> dict[str, Any]:
    """Write `out`/reviews.parquet (in the order of lines), items.parquet (first of repeats) and manifest.json.

    Args:
        origin: where the files come from, for the manifest.

    Returns:
        The manifest.

    Raises:
        DataError: a file that cannot be read; names file, line, value and remedy.
    """
    out.mkdir(parents=True, exist_ok=True)
    review_rows = convert(reviews, out / "reviews.parquet", REVIEWS)
    item_rows = convert(items, out / "items.parquet", ITEMS)
    first = pl.scan_parquet(out / "items.parquet").unique("parent_asin", keep="first", maintain_order=True).collect()
    with atomic(out / "items.parquet") as temporary:
        first.write_parquet(temporary)
    manifest = {
        **origin,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in (reviews, items)},
        "reviews": review_rows,
        "items": first.height,
        "item_lines_repeated": item_rows - first.height,
        "titles_missing": int(first["title"].null_count()),
        "outputs": {name: sha256(out / name) for name in ("reviews.parquet", "items.parquet")},
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def convert(source: Path, target: Path, layout: Layout, block: int = BLOCK) -> int:
    """Stream a raw file into a parquet file, rows in the order of lines; the number of rows is returned.

    One thread decompresses, another parses and writes.
    """
    rows = 0
    with (
        atomic(target) as temporary,
        pq.ParquetWriter(temporary, layout.schema, compression="zstd") as writer,
        ThreadPoolExecutor(1) as pool,
        tqdm(desc=source.name, unit=f" {layout.name}s", unit_scale=True, mininterval=1, disable=None) as progress,
    ):

        def store(lines: bytes, first_line: int) -> int:
            table = parse_block(lines, layout, source, first_line)
            writer.write_table(table)
            return int(table.num_rows)

        def finished(future: Future[int]) -> int:
            progress.update(future.result())
            return future.result()

        pending: deque[Future[int]] = deque()
        for first_line, lines in blocks(source, block):
            pending.append(pool.submit(store, lines, first_line))
            if len(pending) > 4:
                rows += finished(pending.popleft())
        rows += sum(finished(future) for future in pending)
        if rows == 0:
            raise DataError(f"{source} holds no {layout.name}; it should have one JSON object a line.")
    return rows


def blocks(path: Path, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines of a plain or gzip file, each with the number of its first line (from 1).

    Raises:
        DataError: the file cannot be read, its gzip stream is truncated or damaged, or a line has no end.
    """
    line, rest = 1, b""
    try:
        with pa.input_stream(path, compression="gzip" if _is_gzip(path) else None, buffer_size=1 << 20) as stream:
            while read := stream.read(size):
                cut = read.rfind(b"\n") + 1
                if cut:
                    lines = rest + read[:cut]
                    yield line, lines
                    line += lines.count(b"\n")
                    rest = read[cut:]
                else:
                    rest += read
                if len(rest) > LONGEST_LINE:
                    raise DataError(
                        f"{path}, line {line} is longer than {LONGEST_LINE >> 20} MB; write one JSON object a line."
                    )
    except OSError as error:
        raise DataError(
            f"{path} cannot be read to its end, what is wrong comes after line {line}: {error}. If it is a truncated "
            "or damaged gzip file (`gzip --test` tells), fetch it again."
        ) from error
    if rest:
        yield line, rest


def parse_block(lines: bytes, layout: Layout, path: Path, first_line: int) -> pa.Table:
    """Rows of a block of whole lines; equal to `parse_lines`, and twenty times as fast where nothing is wrong."""
    if not re.match(rb"\s*\{", lines):  # Arrow 25 crashes on a block that begins with the value null
        return parse_lines(lines, layout, path, first_line)
    try:
        lines.decode("utf-8")  # Arrow does not look at the encoding of fields that it skips
        table = pj.read_json(
            pa.BufferReader(lines),
            read_options=pj.ReadOptions(use_threads=False, block_size=max(len(lines), 1 << 10)),
            parse_options=pj.ParseOptions(explicit_schema=layout.schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return parse_lines(lines, layout, path, first_line)
    whole = table.num_rows == lines.count(b"\n") + (not lines.endswith(b"\n"))
    return table if whole and _is_clean(table, layout) else parse_lines(lines, layout, path, first_line)


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
                raise ValueError(f"it holds {_shown(value)}, not an object; write one JSON object a line")
            rows.append(layout.check(value))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number} is not UTF-8: byte {line[error.start : error.start + 1]!r} at {error.start}; "
                "convert the file to UTF-8."
            ) from error
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number} is not valid JSON: {error.msg} at column {error.colno}, "
                f"near {_shown(error.doc[max(error.pos - 20, 0) : error.pos + 20])}; mend or remove the line."
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
        if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column)).as_py():
            return False
        if pa.types.is_integer(column.type):
            smallest, largest = pc.min_max(column).values()
            if smallest.as_py() < EARLIEST or largest.as_py() > LATEST:
                return False
    return True


def _one(folder: Path, stem: str) -> Path:
    there = [path for path in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz") if path.exists()]
    if not there:
        raise DataError(
            f"{folder / stem}.jsonl[.gz] is not there; put it there or change data.category or data.dir. "
            f"Categories in this folder: {', '.join(_categories(folder)) or 'none'}."
        )
    if len(there) == 2:
        raise DataError(f"{there[0]} and {there[1].name} are both there; remove the one that is not meant.")
    if not there[0].is_file() or there[0].stat().st_size == 0:
        raise DataError(f"{there[0]} is empty or not a file; it should have one JSON object a line.")
    return there[0]


def _categories(folder: Path) -> list[str]:
    names = {path.name.split(".jsonl")[0] for path in folder.glob("*.jsonl*")}
    return sorted(name for name in names if not name.startswith("meta_"))[:10]


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


def _field(line: dict[str, Any], name: str) -> Any:
    if line.get(name) is None:
        raise ValueError(f"{name} is {'null' if name in line else 'missing'}; each line needs one")
    return line[name]


def _text(line: dict[str, Any], name: str) -> str:
    value = _field(line, name)
    if not isinstance(value, str) or not value or not _is_unicode(value):
        raise ValueError(f"{name} is {_shown(value)}, not a string with text in it")
    return value


def _is_unicode(value: str) -> bool:
    """False for the half of a surrogate pair, which JSON can escape and no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _shown(value: Any) -> str:
    """A value as JSON, short enough for a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
