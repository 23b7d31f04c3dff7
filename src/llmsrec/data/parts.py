"""A table cut into parts of consecutive users, so that one part at a time has to fit into memory.

Parts lie in a folder beside what is made from them and are gone with it, finished or not.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmsrec.data.threads import in_order
from llmsrec.files import atomic

ROWS = 1 << 19  # of a part, about
OPEN = 500  # parts at most: the files of all are open while reviews are cut
BATCH = 1 << 20  # rows that are read at once
GROUPS, SAMPLED = 32, 1 << 14  # row groups that the cuts between parts are found from, and user ids of each at most
ROW_GROUP = 1 << 17  # rows; polars' own choice depends on the files that it reads
COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")
COLUMNS = pa.schema({"user_id": pa.string(), "item": pa.int32(), "timestamp": pa.int64()})


@contextmanager
def working(out: Path) -> Iterator[Path]:
    """An empty folder for parts, on the disk of `out`; what a killed run left in it is removed first."""
    folder = out.with_name(f".{out.name}.parts")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spread(reviews: Path, folder: Path) -> tuple[list[Path], pl.Series]:
    """Write reviews to `folder`/<n>.arrow: `user_id, item, timestamp`, in the order of lines.

    A user's reviews are in one part, and all users of a part come before those of the next in byte order.

    Returns:
        The parts, and the raw ids of items that the codes 0, 1, ... in `item` stand for; which code an item gets is
        left to chance.
    """
    file, table, items = pq.ParquetFile(reviews), pl.Categories.random(), 0
    _alive = pl.Series(dtype=pl.Categorical(table))  # polars forgets codes that no series uses
    bounds = _bounds(file)
    parts = [folder / f"{number:04d}.arrow" for number in range(len(bounds) + 1)]

    def coded(batch: pa.RecordBatch) -> tuple[int, np.ndarray, pa.RecordBatch]:
        """How many codes there are at least, the rows of each part, and the batch in the order of parts."""
        user_ids, item_ids = (pl.Series(batch[name]) for name in ("user_id", "parent_asin"))
        codes = item_ids.cast(pl.Categorical(table)).to_physical().to_numpy()
        of_rows = bounds.search_sorted(user_ids, side="right").to_numpy()
        order = np.argsort(of_rows.astype(np.uint16), kind="stable")
        columns = [batch["user_id"].take(order), codes[order].astype(np.int32), batch["timestamp"].take(order)]
        rows = pa.RecordBatch.from_arrays(list(map(pa.array, columns)), schema=COLUMNS)
        return int(codes.max()) + 1, np.bincount(of_rows, minlength=len(parts)), rows

    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_file(path, COLUMNS, options=COMPRESSED)) for path in parts]
        batches = file.iter_batches(BATCH, columns=["user_id", "parent_asin", "timestamp"])
        for codes, counts, rows in in_order(coded, batches):
            items = max(items, codes)
            for writer, end, count in zip(writers, np.cumsum(counts), counts, strict=True):
                if count:
                    writer.write_batch(rows.slice(end - count, count))
            pa.default_memory_pool().release_unused()  # Arrow would keep it, GBs of it for 100 million rows
    pa.default_memory_pool().release_unused()
    return parts, texts(table, items)


def texts(table: pl.Categories, count: int) -> pl.Series:
    """What the codes 0 .. `count` - 1 of a table stand for; its own `to_series` makes a Python string of each."""
    codes = pl.Series(np.arange(count, dtype=np.uint32))
    return codes.cat.to(pl.Categorical(table)).cast(pl.String)


def _bounds(file: pq.ParquetFile) -> pl.Series:
    """The first user id of each part but the first, from a sample: parts are about equal, what is written is not
    changed by it."""
    count = min(-(-file.metadata.num_rows // ROWS), OPEN)
    if count <= 1:
        return pl.Series(dtype=pl.String)
    groups = np.unique(np.linspace(0, file.num_row_groups - 1, GROUPS).astype(int))
    ids = [pl.Series(file.read_row_group(group, columns=["user_id"])["user_id"]) for group in groups]
    ordered = pl.concat(of.gather_every(-(-len(of) // SAMPLED)) for of in ids).sort()
    places = np.linspace(0, len(ordered), count + 1)[1:-1].astype(int)
    return ordered.gather(places).unique().sort()


def join(parts: list[Path], path: Path) -> None:
    """Write the rows of parquet files, one file after the other, to one; the same file as of a frame with all rows."""
    with atomic(path) as temporary:
        pl.scan_parquet(parts).sink_parquet(temporary, row_group_size=ROW_GROUP)
