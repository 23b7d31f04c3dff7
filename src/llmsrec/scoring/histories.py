"""Users' histories as events: from the pipeline's data or a file, spread so that a user's events lie together.

All sources give blocks of the same three columns, in their own order: `user_id` (raw), `parent_asin` (null: a user
without a history) and `timestamp` (ms since epoch). A source need not be sorted nor fit into memory: `spread` writes
the events to several files, the bucket of a user being a digest of the id.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from llmsrec.data.json_lines import blocks as line_blocks
from llmsrec.errors import DataError, in_words, json_in_words, shown
from llmsrec.serving.schema import Event
from llmsrec.times import EARLIEST, LATEST, OUTSIDE

SCHEMA = pl.Schema({"user_id": pl.String, "parent_asin": pl.String, "timestamp": pl.Int64})
ROWS = 1 << 18  # of a block
BYTES = 1 << 24  # of a block of lines
EVENTS = 1 << 20  # of a bucket, about
EVENT_BYTES = 64  # of an event in JSON, about
MOST_BUCKETS = 256  # each is an open file while events are spread


@dataclass(frozen=True)
class Source:
    """Where histories come from.

    Attributes:
        name: for messages.
        files: all that is read; their content is the source's identity.
        events: about how many events there are.
        blocks: gives the events in blocks of `SCHEMA`; raises DataError that names file, row or line, value, remedy.
    """

    name: str
    files: list[Path]
    events: int
    blocks: Callable[[], Iterator[pl.DataFrame]]


class Line(BaseModel):
    """A user in a file of JSON lines: a request with a `user_id`; other fields are not read."""

    model_config = ConfigDict(extra="ignore", strict=True)

    user_id: str = Field(min_length=1)
    history: list[Event]


def of_data(folder: Path) -> Source:
    """All users of the pipeline's data: the events of all splits.

    Args:
        folder: data/filtered.
    """
    files = [folder / name for name in ("interactions.parquet", "users.parquet", "items.parquet")]
    for path in files:
        if not path.is_file():
            raise DataError(f"{path} is not there; `dvc repro filter` writes it, or name a file: --histories FILE.")

    def blocks() -> Iterator[pl.DataFrame]:
        users = pl.read_parquet(files[1]).sort("user_id")["raw_user_id"]
        asins = pl.read_parquet(files[2]).sort("item_id")["parent_asin"]
        for table in _parquet(files[0]).iter_batches(ROWS, columns=["user_id", "item_id", "timestamp"]):
            frame = pl.DataFrame(table)
            yield pl.DataFrame(
                {
                    "user_id": users.gather(frame["user_id"] - 1),
                    "parent_asin": asins.gather(frame["item_id"] - 1),
                    "timestamp": frame["timestamp"],
                },
                schema=SCHEMA,
            )

    return Source(str(folder), files, _parquet(files[0]).metadata.num_rows, blocks)


def of_file(path: Path) -> Source:
    """Histories in a parquet file (a row an event) or in JSON lines, plain or gzip (a line a user).

    Raises:
        DataError: no such file, an ending that says neither, or columns that are missing or of another type.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; --histories takes a .parquet, .jsonl or .jsonl.gz file.")
    if path.suffix == ".parquet":
        return _of_parquet(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        events = path.stat().st_size // EVENT_BYTES * (1 if path.suffix == ".jsonl" else 8)
        return Source(str(path), [path], events, lambda: _json_lines(path))
    raise DataError(f"{path} ends in neither .parquet, .jsonl nor .jsonl.gz, which says what it is; rename it.")


def spread(source: Source, folder: Path, shard: tuple[int, int] = (1, 1)) -> list[int]:
    """Write the events of a shard's users to `folder`/<bucket>.parquet, in the source's order, and count the users.

    Args:
        folder: an empty folder.
        shard: (i, n): of n parts of all users, the i-th, from 1; a user is always in the same one.

    Returns:
        The number of users of each bucket.
    """
    number, shards = shard
    buckets = max(1, min(MOST_BUCKETS, -(-source.events // (EVENTS * shards))))
    arrow = pl.DataFrame(schema=SCHEMA).to_arrow().schema
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pq.ParquetWriter(_bucket(folder, bucket), arrow, compression="zstd"))
            for bucket in range(buckets)
        ]
        for block in source.blocks():
            users = block.select(pl.col("user_id").unique())
            places = [zlib.crc32(user.encode()) for user in users["user_id"]]
            mine = [place // shards % buckets if place % shards == number - 1 else None for place in places]
            users = users.with_columns(bucket=pl.Series(mine, dtype=pl.Int32)).drop_nulls()
            placed = block.join(users, on="user_id", maintain_order="left")
            for (bucket,), events in placed.partition_by("bucket", as_dict=True, maintain_order=True).items():
                writers[bucket].write_table(events.select(list(SCHEMA)).to_arrow().cast(arrow))
    scans = [pl.scan_parquet(_bucket(folder, bucket)).select(pl.col("user_id").n_unique()) for bucket in range(buckets)]
    return [scan.collect().item() for scan in scans]


def users_of(folder: Path, bucket: int) -> pl.DataFrame:
    """A bucket's users in the order in which the source first has them: `user_id`, lists `parent_asin`, `timestamp`."""
    events = pl.read_parquet(_bucket(folder, bucket))
    known = pl.col("parent_asin").is_not_null()
    return events.group_by("user_id", maintain_order=True).agg(
        pl.col("parent_asin").filter(known), pl.col("timestamp").filter(known)
    )


def _bucket(folder: Path, bucket: int) -> Path:
    return folder / f"{bucket:03d}.parquet"


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read as parquet: {reason}. Write it anew.") from error


def _of_parquet(path: Path) -> Source:
    file = _parquet(path)
    schema = pl.DataFrame(file.schema_arrow.empty_table()).schema
    missing = [name for name in SCHEMA if name not in schema]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}, but {', '.join(schema) or 'none'}; a row is an event with "
            f"the columns {', '.join(SCHEMA)}."
        )
    for name in ("user_id", "parent_asin"):
        if not (schema[name] in (pl.String, pl.Categorical) or schema[name].is_integer()):
            raise DataError(f"{path}: the column {name} is {schema[name]}; write ids as strings.")
    if not (schema["timestamp"].is_integer() or isinstance(schema["timestamp"], pl.Datetime)):
        raise DataError(f"{path}: the column timestamp is {schema['timestamp']}; write whole ms since epoch.")
    return Source(str(path), [path], file.metadata.num_rows, lambda: _events(path))


def _events(path: Path) -> Iterator[pl.DataFrame]:
    row = 0
    times = pl.col("timestamp")
    for table in _parquet(path).iter_batches(ROWS, columns=list(SCHEMA)):
        frame = pl.DataFrame(table)
        if isinstance(frame.schema["timestamp"], pl.Datetime):
            frame = frame.with_columns(times.dt.epoch("ms"))
        frame = frame.cast(SCHEMA)
        bad = pl.any_horizontal(pl.all().is_null(), pl.col("user_id") == "", ~times.is_between(EARLIEST, LATEST))
        broken = frame.with_row_index("row", row + 1).filter(bad.fill_null(True)).head(1).to_dicts()
        if broken:
            number = broken[0].pop("row")
            values = ", ".join(f"{name} {shown(value)}" for name, value in broken[0].items())
            raise DataError(
                f"{path}, row {number}: {values}; a row without an id is no event, nor one with a time "
                f"{OUTSIDE}. Mend or drop it."
            )
        row += frame.height
        yield frame


def _json_lines(path: Path) -> Iterator[pl.DataFrame]:
    for first, _, text in line_blocks(path, BYTES):
        users: list[str] = []
        asins: list[str | None] = []
        times: list[int] = []
        for number, line in enumerate(text.splitlines(), start=first):
            if not line.strip():
                continue
            try:
                user = Line.model_validate_json(line)
            except ValidationError as error:
                raise DataError(f"{path}, line {number}: {reason(error)}. {EXAMPLE}") from error
            users += [user.user_id] * max(1, len(user.history))
            asins += [event.parent_asin for event in user.history] or [None]
            times += [event.timestamp for event in user.history] or [0]
        yield pl.DataFrame({"user_id": users, "parent_asin": asins, "timestamp": times}, schema=SCHEMA)


EXAMPLE = 'A line is {"user_id": "A1", "history": [{"parent_asin": "B00A", "timestamp": 1391040000000}, ...]}.'


def reason(error: ValidationError) -> str:
    """What is wrong with a line of JSON: the first field, its value, why."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"`{where}` is missing"
    if problem["type"] == "json_invalid":
        return f"not valid JSON: {_why_not_json(problem)}"
    return f"`{where}` is {shown(problem['input'])}: {in_words(problem)}"


def _why_not_json(problem: ErrorDetails) -> str:
    try:
        json.loads(problem["input"].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return json_in_words(error)
    return problem["ctx"]["error"]  # what pydantic refuses and Python does not, as half a surrogate pair
