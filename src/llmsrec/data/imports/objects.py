"""JSON lines (or lines of Python literals, as Amazon's 2014 metadata are) as Arrow tables of text.

`parse_lines` is the meaning, `parse_block` (Arrow) its fast path for JSON.
"""

import ast
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from llmsrec.data.imports.refusals import Refusals
from llmsrec.errors import DataError, json_in_words, shown

LOOKED_AT = 1000  # lines whose fields are known before the file is read
LISTS = pa.list_(pa.string())


def schema(path: Path, start: str, python: bool) -> dict[str, pa.DataType]:
    """The fields of the first lines, and the type that Arrow may expect of each.

    Raises:
        DataError: a line is not an object.
    """
    types: dict[str, pa.DataType] = {}
    lines = [(number, line) for number, line in enumerate(start.split("\n"), start=1) if line.strip()]
    for number, line in lines[:LOOKED_AT]:
        for name, value in parsed(line, path, number, python).items():
            kind = LISTS if isinstance(value, list) else {int: pa.int64(), float: pa.float64()}.get(type(value))
            if value is not None and (name not in types or kind == pa.float64()):
                types[name] = kind or pa.string()
            types.setdefault(name, pa.string())
    return types


def cut(data: bytes, line: int) -> int:
    """How many bytes at the beginning of `data` are whole lines."""
    return data.rfind(b"\n") + 1


def parse_block(
    data: bytes, fields: Mapping[str, str], types: Mapping[str, pa.DataType], path: Path, first_line: int,
    refusals: Refusals,
) -> pa.Table:  # fmt: skip
    """The wanted fields of a block of whole lines as text, and `line` (int64); equal to `parse_lines`, but that a whole
    number among times with fractions is written with one, 7 as 7.0.

    Args:
        fields: name in the table -> field; `category` becomes a list of text.
        types: of the fields, as `schema` gives them.
    """
    expected = {field: types.get(field, pa.string()) for field in fields.values()}
    fast = all(
        (kind == LISTS) == (name == "category") and not (kind == pa.float64() and name != "time")
        for name, kind in ((name, expected[field]) for name, field in fields.items())
    )
    if not fast or data.lstrip()[:1] != b"{":  # Arrow 25 crashes on a block that begins with the value null
        return parse_lines(data, fields, path, first_line, refusals)
    try:
        table = pj.read_json(
            pa.BufferReader(data),
            read_options=pj.ReadOptions(use_threads=False, block_size=max(len(data), 1 << 10)),
            parse_options=pj.ParseOptions(
                explicit_schema=pa.schema(list(expected.items())), unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return parse_lines(data, fields, path, first_line, refusals)
    newlines = int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n")))
    if table.num_rows != newlines + (not data.endswith(b"\n")):
        return parse_lines(data, fields, path, first_line, refusals)
    columns = {name: _as_text(table[field], name) for name, field in fields.items()}
    return pa.table({**columns, "line": pa.array(np.arange(table.num_rows) + first_line, pa.int64())})


def parse_lines(
    data: bytes, fields: Mapping[str, str], path: Path, first_line: int, refusals: Refusals, python: bool = False
) -> pa.Table:
    """The same, one line after the other; blank lines are skipped.

    Args:
        python: lines are Python literals.

    Raises:
        DataError: a line is not an object.
    """
    rows: dict[str, list[Any]] = {name: [] for name in fields}
    lines = []
    for number, line in enumerate(data.decode("utf-8").removesuffix("\n").split("\n"), start=first_line):
        if not line.strip():
            continue
        value = parsed(line, path, number, python)
        try:
            row = {name: plain(value.get(field), name) for name, field in fields.items()}
        except ValueError as error:
            refusals.add(path, number, str(error), "write it as text")
            continue
        for name, field in row.items():
            rows[name].append(field)
        lines.append(number)
    columns = {name: pa.array(values, LISTS if name == "category" else pa.string()) for name, values in rows.items()}
    return pa.table({**columns, "line": pa.array(lines, pa.int64())})


def parsed(line: str, path: Path, number: int, python: bool) -> dict[str, Any]:
    """The object of one line.

    Raises:
        DataError: it is none.
    """
    try:
        value = ast.literal_eval(line.strip()) if python else json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number} is not valid JSON: {json_in_words(error)}; mend or remove the line."
        ) from error
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        kind = "a Python literal" if python else "valid JSON"
        raise DataError(f"{path}, line {number} is not {kind}: {shown(line[:60])}; mend or remove the line.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number} holds {shown(value)}, not an object; write one object a line.")
    return value


def plain(value: Any, name: str) -> Any:
    """A field's value as text, or for `category` as a list of text; None where there is nothing of that kind.

    Numbers become text; a list of text as a title is joined with spaces. A list of lists, as Amazon's 2014 categories
    are, stands for its first.

    Raises:
        ValueError: an id or a time that is neither text nor a number, or an id with a decimal point.
    """
    if name == "category":
        parts = value if isinstance(value, list) else [value]
        parts = parts[0] if parts and isinstance(parts[0], list) else parts
        texts = [text for part in parts if (text := _text(part)) is not None]
        return texts or None
    if name == "title" and isinstance(value, list):
        texts = [part for part in value if isinstance(part, str) and _is_unicode(part)]
        return " ".join(texts) if texts and len(texts) == len(value) else None
    required = name in ("user", "item", "time")
    if required and (isinstance(value, bool | list | dict) or (isinstance(value, float) and name != "time")):
        raise ValueError(f"{name} is {shown(value)}, neither text nor a whole number")
    if required and isinstance(value, str) and not _is_unicode(value):
        raise ValueError(f"{name} is {shown(value)}, which is no text: half a surrogate pair")
    return _text(value)


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value if _is_unicode(value) else None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column that Arrow read, as `plain` would give it."""
    if name == "category":
        kept: Iterable[Any] = (plain(value, name) for value in column.to_pylist())
        return pa.chunked_array([pa.array(kept, LISTS)])
    if pa.types.is_floating(column.type):
        return pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())])
    return column.cast(pa.string())
