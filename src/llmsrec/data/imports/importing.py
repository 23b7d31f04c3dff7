"""From a shop's files to `<to>/<category>.jsonl.gz`, `meta_<category>.jsonl.gz` and `<category>.manifest.json`.

Rows are read once, in blocks, into tables beside the target; then the times are read in the way that suits the whole
column, and the files are written. They replace what was there only when all of it has succeeded.
"""

import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from isal import igzip
from tqdm import tqdm

from llmsrec.data.imports import rows, times
from llmsrec.data.imports.catalogue import Catalogue
from llmsrec.data.imports.columns import REQUIRED
from llmsrec.data.imports.refusals import Refusals
from llmsrec.data.imports.request import Part, Request, check_target, open_catalogue, open_events
from llmsrec.data.imports.sources import tables
from llmsrec.errors import DataError
from llmsrec.files import atomic, sha256, write_json
from llmsrec.times import EARLIEST, LATEST

NAMES = {"user": "user_id", "item": "parent_asin", "rating": "rating", "category": "categories"}  # in the raw layout
COMPRESSION = 1  # isal's level, of 0 to 3: as small as gzip's 4, at ten times its speed
BATCH = 1 << 17  # rows that are converted and written at once


def run(request: Request) -> dict[str, Any]:
    """Write the three files, and return the manifest.

    Raises:
        RequestError: a column that is not stated or not there; a target that no import wrote.
        DataError: a file or a row that cannot be read, with its line.
    """
    replaces = check_target(request)
    times.check_zone(request.zone)
    if request.form is not None:
        times.check_form(request.form)
    parts = open_events(request)
    catalogue_part = open_catalogue(request, parts[0].known)
    events_path, items_path, manifest_path = request.outputs()
    refusals, refused_items = Refusals(request.skip_bad, request.files), Refusals(request.skip_bad)
    with (
        atomic(events_path) as events,
        atomic(items_path) as items,
        tempfile.TemporaryDirectory(prefix=f".{request.category}.", dir=request.to) as scratch,
    ):
        stores = [(part, Path(scratch) / str(number)) for number, part in enumerate(parts)]
        bought = Catalogue()
        read = sum(_gather(part, store, bought, refusals) for part, store in stores) + refusals.count
        if read == refusals.count:
            raise _nothing_left(request, read, refusals)
        time_format = _time_format(request, [store for _, store in stores])
        sold = Catalogue()  # `bought` without the items whose every event has a time that cannot be read
        written, first, last = _write_events(events, stores, time_format, sold, refusals)
        if written == 0:
            raise _nothing_left(request, read, refusals)
        catalogue = known = bought.frame().join(sold.frame(), on="item", how="semi", maintain_order="left")
        if catalogue_part:
            catalogue = _read_catalogue(catalogue_part, refused_items)
            known = known.join(catalogue, on="item", how="left", maintain_order="left")
        with _compressed(items) as stream:
            _write_items(stream, catalogue)
    titled = known.height - known["title"].null_count() if "title" in known.columns else 0
    manifest = {
        "written_by": "llmsrec import",
        "category": request.category,
        "sources": [_described(part, "events") for part in parts]
        + ([_described(catalogue_part, "items")] if catalogue_part else []),
        "times": {"rule": time_format.rule(), "first": first, "last": last},
        "rows": {"in": read, "out": written, "refused": refusals.count, "first_refused": refusals.examples},
        "items": {"bought": known.height, "bought_with_title": titled, "in_catalogue": catalogue.height,
                  "refused": refused_items.count, "first_refused": refused_items.examples},
        "outputs": {path.name: sha256(path) for path in (events_path, items_path)},
    }  # fmt: skip
    write_json(manifest_path, manifest)
    return {**manifest, "replaced": replaces}


def _gather(part: Part, store: Path, bought: Catalogue, refusals: Refusals) -> int:
    """Read a file of events into a parquet file beside the target; how many rows are whole.

    Args:
        bought: gets the items with what the file says of them.
    """
    kept = 0
    schema = pa.schema([(name, pa.string()) for name in REQUIRED] + [("line", pa.int64())])
    if "rating" in part.columns:
        schema = schema.append(pa.field("rating", pa.float32()))
    of_items = [name for name in ("item", "title", "category", "store") if name in part.columns]
    with pq.ParquetWriter(store, schema, compression="lz4", use_dictionary=False) as writer:
        for frame in _frames(part, refusals):
            bought.add(frame.select(of_items))
            writer.write_table(frame.select(schema.names).to_arrow().cast(schema))
            kept += frame.height
    return kept


def _frames(part: Part, refusals: Refusals) -> Iterator[pl.DataFrame]:
    """The whole rows of a file, block by block."""
    source = part.source
    with tqdm(desc=source.path.name, unit=" rows", unit_scale=True, mininterval=1, disable=None) as progress:
        for table in tables(source, part.columns, refusals):
            progress.update(table.num_rows)
            frame = rows.whole(rows.tidy(table), source.path, part.columns, refusals)
            refusals.check()
            yield frame


def _time_format(request: Request, stores: list[Path]) -> times.TimeFormat:
    """How the times are written: as stated, or as most of them are."""
    if request.form is not None:
        return times.TimeFormat("format", request.form, request.zone)
    if request.unit is not None:
        return times.TimeFormat(request.unit, zone=request.zone)
    counts: Counter[str] = Counter()
    example = ""
    for store in stores:
        for batch in pq.ParquetFile(store).iter_batches(BATCH, columns=["time"]):
            values = pl.Series(batch.column(0))
            example = example or values[0]
            counts += times.suits(values)
    return times.choose(counts, request.zone, example)


def _write_events(
    path: Path, stores: list[tuple[Part, Path]], time_format: times.TimeFormat, sold: Catalogue, refusals: Refusals
) -> tuple[int, str, str]:
    """Write the events in the order of rows; how many there are, and the dates of the first and the last in time.

    Args:
        sold: gets the ids of the items that are written.
    """
    written, first, last = 0, LATEST, EARLIEST
    with (
        _compressed(path) as stream,
        tqdm(desc=path.name, unit=" rows", unit_scale=True, mininterval=1, disable=None) as progress,
    ):
        for part, store in stores:
            for batch in pq.ParquetFile(store).iter_batches(BATCH):
                frame = pl.DataFrame(pl.from_arrow(batch))
                frame = frame.with_columns(times.to_ms(frame["time"], time_format).alias("timestamp"))
                misfit = pl.when(pl.col("timestamp").is_null()).then(pl.col("time"))
                remedy = times.remedy(time_format)
                frame = rows.refuse(
                    frame, misfit, part.source.path, refusals, lambda v: times.why(v, time_format), remedy
                )
                refusals.check()
                progress.update(batch.num_rows)
                if frame.height == 0:
                    continue
                written += frame.height
                sold.add(frame.select("item"))
                milliseconds = frame["timestamp"].to_numpy()
                first, last = min(first, int(milliseconds.min())), max(last, int(milliseconds.max()))
                _write(stream, frame, ["user", "item", "rating", "timestamp"])
    return written, times.day(first), times.day(last)


def _read_catalogue(part: Part, refusals: Refusals) -> pl.DataFrame:
    catalogue = Catalogue()
    for frame in _frames(part, refusals):
        catalogue.add(frame.drop("line"))
    return catalogue.frame()


def _write_items(stream: io.IOBase, catalogue: pl.DataFrame) -> None:
    for start in range(0, catalogue.height, BATCH):
        _write(stream, catalogue.slice(start, BATCH), ["item", "title", "store", "category"])


def _write(stream: io.IOBase, frame: pl.DataFrame, names: list[str]) -> None:
    """Write those of the columns that the frame has as JSON lines."""
    lines = io.BytesIO()
    present = [name for name in names if name in frame.columns]
    frame.select(pl.col(name).alias(NAMES.get(name, name)) for name in present).write_ndjson(lines)
    stream.write(lines.getbuffer())


@contextmanager
def _compressed(path: Path) -> Iterator[igzip.IGzipFile]:
    """A gzip file whose header holds neither name nor time: equal content is an equal file."""
    with path.open("wb") as file, igzip.IGzipFile("", "wb", COMPRESSION, file, mtime=0) as stream:
        yield stream


def _nothing_left(request: Request, read: int, refusals: Refusals) -> DataError:
    if refusals.count == 0:
        return DataError(f"{request.files[0]} has a header and no row; export it again.")
    example = refusals.examples[0]
    return DataError(
        f"none of {read:,} rows can be read; the first: {example['file']}, line {example['line']}: "
        f"{example['reason']}. Look at the columns and formats that are stated."
    )


def _described(part: Part, what: str) -> dict[str, Any]:
    path = part.source.path
    return {
        "file": path.name,
        "holds": what,
        "format": part.known or "columns as stated",
        "written": part.source.written(),
        "columns": dict(part.columns),
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
    }
