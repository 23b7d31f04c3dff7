"""An output file that is made in parts: a killed run goes on with what is missing, and no output is half there.

.<out>.parts/lock            held by the one process that works for <out>
.<out>.parts/<digest>/       what belongs to one bundle, input and options
    state.json               when it began; how many users each bucket of events has
    events/                  users' events, see `histories.spread`
    parts/<number>.parquet   finished parts, each with its counts in its schema's metadata
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmsrec.errors import DataError, RequestError
from llmsrec.files import atomic

COUNTS = b"llmsrec.counts"
ROW_GROUP = 1 << 17  # rows, at least, of one in the output


@dataclass(frozen=True)
class Parts:
    """The work on one output that is done so far.

    Attributes:
        out: the file that is made.
        folder: of this digest.
    """

    out: Path
    folder: Path

    @property
    def events(self) -> Path:
        return self.folder / "events"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    def has(self, number: int) -> bool:
        """Whether a part is finished."""
        return self._path(number).exists()

    def write(self, number: int, table: pa.Table, counts: dict[str, int]) -> None:
        """Finish a part: whole, or not there."""
        with atomic(self._path(number)) as temporary:
            metadata = {COUNTS: json.dumps(counts).encode()}
            pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")

    def join(self, numbers: int, schema: pa.Schema) -> dict[str, int]:
        """Write the output from parts 0 up to `numbers`, remove the hidden folder and return the sums of the counts."""
        totals: dict[str, int] = {}
        with (
            atomic(self.out) as temporary,
            pq.ParquetWriter(temporary, schema.remove_metadata(), compression="zstd") as writer,
        ):
            waiting: list[pa.Table] = []
            for number in range(numbers):
                table = pq.read_table(self._path(number))
                for name, count in json.loads((table.schema.metadata or {})[COUNTS]).items():
                    totals[name] = totals.get(name, 0) + count
                waiting.append(table.replace_schema_metadata(None))
                if sum(part.num_rows for part in waiting) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        return totals

    def _path(self, number: int) -> Path:
        return self.folder / "parts" / f"{number:06d}.parquet"


@contextmanager
def working(out: Path, digest: str) -> Iterator[Parts]:
    """The parts for `out` that belong to `digest`; those that another bundle, input or options left are removed.

    Raises:
        RequestError: another process works for the same file.
        DataError: nothing can be written there.
    """
    if out.is_dir():
        raise RequestError(f"--out {out} is a folder; name a file in it, such as {out / 'recommendations.parquet'}.")
    folder = out.with_name(f".{out.name}.parts")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(f"cannot write to {out.parent}: {error.strerror}; choose another --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RequestError(f"another process writes {out} now; wait for it, or choose another --out.") from error
        for other in folder.iterdir():
            if other.is_dir() and other.name != digest:
                shutil.rmtree(other)
        (folder / digest).mkdir(exist_ok=True)
        yield Parts(out, folder / digest)
