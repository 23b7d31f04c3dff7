"""The ranks of all users, as `report.write_ranks` wrote them, read back."""

from pathlib import Path

import polars as pl

from llmsrec.files import require_parquet

COLUMNS = ("user_id", "model", "split", "protocol", "rank")


def read(path: Path, remedy: str) -> pl.DataFrame:
    """A row of `COLUMNS` for each user, model, split and protocol.

    Args:
        remedy: see `files.require_parquet`.

    Raises:
        DataError: there is no such file, or it is broken.
    """
    require_parquet(path, COLUMNS, remedy)
    return pl.read_parquet(path, columns=list(COLUMNS))
