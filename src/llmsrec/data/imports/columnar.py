"""Parquet as Arrow tables of text, row group by row group."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmsrec.errors import DataError

ROWS = 1 << 17  # of a batch
WHOLE = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)


def names(path: Path) -> list[str]:
    """The columns.

    Raises:
        DataError: it is no parquet file that can be read.
    """
    return list(_open(path).schema_arrow.names)


def tables(path: Path, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    """The wanted columns as text, and `line` (int64): the row, from 1.

    Args:
        columns: name in the table -> column; `category` becomes a list of text.

    Raises:
        DataError: a column of a type that cannot be what it is meant for; a damaged file.
    """
    file, line = _open(path), 1
    for name, column in columns.items():
        _check(path, column, file.schema_arrow.field(column).type, name)
    try:
        for batch in file.iter_batches(ROWS, columns=list(dict.fromkeys(columns.values()))):
            rows = pa.Table.from_batches([batch])
            wanted = {name: _as_text(rows[column], name) for name, column in columns.items()}
            yield pa.table({**wanted, "line": pa.array(np.arange(len(rows)) + line, pa.int64())})
            line += len(rows)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}, after row {line - 1}: it is damaged ({error}); export it again.") from error


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a parquet file that can be read ({error}); export it again.") from error


def _check(path: Path, column: str, kind: pa.DataType, name: str) -> None:
    kind = _inner(kind)
    if name in ("user", "item") and not any(suits(kind) for suits in WHOLE):
        raise DataError(
            f"{path}: {column} is of type {kind}, an id must be text or a whole number; write it as text, so that "
            "00123 and 123 stay apart."
        )
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    kind = _inner(kind.value_type) if lists and name == "category" else kind
    if pa.types.is_nested(kind) or pa.types.is_boolean(kind) or pa.types.is_binary(kind):
        raise DataError(f"{path}: {column} is of type {kind}, which is no {name}; name another column.")


def _inner(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if name == "category":
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            column = pa.chunked_array([pa.array([v if v is None else [str(v)] for v in column.to_pylist()])])
        return column.cast(pa.list_(pa.string()))
    if pa.types.is_timestamp(column.type):
        zoned = column.type.tz is not None
        naive = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()).cast(pa.timestamp("us"))
        text = naive.cast(pa.string())
        return pc.binary_join_element_wise(text, "Z", "") if zoned else text
    if pa.types.is_floating(column.type):
        return pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())])
    return column.cast(pa.string())
