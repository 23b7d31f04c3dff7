"""Parquet of any types as text."""

from datetime import UTC, date, datetime

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmsrec.data.imports import columnar, times
from llmsrec.errors import DataError

MOMENT = datetime(2024, 12, 24, 18, 30, 0, 250_000)


@pytest.mark.parametrize(
    ("column", "way", "milliseconds"),
    [
        (pa.array([MOMENT], pa.timestamp("ns")), times.TimeFormat("iso"), 1_735_065_000_250),
        (pa.array([MOMENT], pa.timestamp("ms")), times.TimeFormat("iso", zone="Europe/Berlin"), 1_735_061_400_250),
        (
            pa.array([MOMENT.replace(tzinfo=UTC)], pa.timestamp("us", "Asia/Tokyo")),
            times.TimeFormat("iso"),
            1_735_065_000_250,
        ),
        (pa.array([date(2024, 12, 24)]), times.TimeFormat("iso"), 1_734_998_400_000),
        (pa.array([1_735_065_000], pa.uint32()), times.TimeFormat("s"), 1_735_065_000_000),
        (pa.array([1_735_065_000.25]), times.TimeFormat("s"), 1_735_065_000_250),
        (pa.array(["2024-12-24T18:30:00.250Z"]), times.TimeFormat("iso"), 1_735_065_000_250),
    ],
)
def test_times_of_any_type(tmp_path, column, way, milliseconds):
    pq.write_table(pa.table({"when": column}), tmp_path / "a.parquet")
    (table,) = columnar.tables(tmp_path / "a.parquet", {"time": "when"})
    values = pl.Series(table["time"])
    assert times.choose(times.suits(values), way.zone, "").kind == way.kind
    assert times.to_ms(values, way).to_list() == [milliseconds]


def test_ids_titles_and_categories(tmp_path):
    table = pa.table(
        {
            "u": pa.array(["00123", "ü/ x", None]).dictionary_encode(),
            "i": pa.array([123, 2**62, None], pa.int64()),
            "t": pa.array(["a", None, "c"], pa.large_string()),
            "c": pa.array([["x", "y"], [], None]),
            "d": pa.array(["x", None, "z"]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    wanted = {"user": "u", "item": "i", "title": "t"}
    (rows,) = columnar.tables(tmp_path / "a.parquet", {**wanted, "category": "c"})
    assert rows.to_pydict() == {
        "user": ["00123", "ü/ x", None],
        "item": ["123", str(2**62), None],
        "title": ["a", None, "c"],
        "category": [["x", "y"], [], None],
        "line": [1, 2, 3],
    }
    (rows,) = columnar.tables(tmp_path / "a.parquet", {**wanted, "category": "d"})
    assert rows["category"].to_pylist() == [["x"], None, ["z"]]


@pytest.mark.parametrize(
    ("column", "role", "message"),
    [
        (pa.array([123.0]), "user", "u is of type double, an id must be text or a whole number"),
        (pa.array([True]), "item", "u is of type bool"),
        (pa.array([[1]]), "time", "which is no time; name another column"),
        (pa.array([{"a": 1}]), "category", "which is no category"),
    ],
)
def test_a_type_that_cannot_be_meant_is_an_error(tmp_path, column, role, message):
    pq.write_table(pa.table({"u": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError) as error:
        list(columnar.tables(tmp_path / "a.parquet", {role: "u"}))
    assert message in str(error.value)


def test_a_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"u": [f"u{n}" for n in range(50_000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[50:5000] = bytes(4950)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        list(columnar.tables(path, {"user": "u"}))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a parquet file that can be read"):
        columnar.names(path)
