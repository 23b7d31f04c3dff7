"""Raw files written by hand, for the tests of this folder."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import settings

settings.register_profile("llmsrec", deadline=None)  # the first example pays for what others find in a cache
settings.load_profile("llmsrec")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (objects, text or bytes) to a file below tmp_path; `.gz` is compressed."""

    def writer(name: str, lines: Iterable[Any]) -> Path:
        parts = [line if isinstance(line, bytes) else _text(line).encode() for line in lines]
        content = b"".join(part + b"\n" for part in parts)
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return writer


def _text(line: Any) -> str:
    return line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)


@pytest.fixture
def raw_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write data/raw as the ingest stage does, from (user, item, timestamp) rows and {item: title}.

    `catalogue` has the store and the categories of items that have any.
    """

    def writer(
        rows: list[tuple[str, str, int]],
        titles: dict[str, str | None] | None = None,
        catalogue: dict[str, tuple[str | None, list[str]]] | None = None,
    ) -> Path:
        folder = tmp_path / "raw"
        folder.mkdir(exist_ok=True)
        reviews = {"user_id": pl.String, "parent_asin": pl.String, "timestamp": pl.Int64}
        frame = pl.DataFrame(rows, schema=reviews, orient="row")
        frame.with_columns(rating=pl.lit(5.0, pl.Float32)).write_parquet(folder / "reviews.parquet")
        lines = [(item, title, *(catalogue or {}).get(item, (None, []))) for item, title in (titles or {}).items()]
        schema = {"parent_asin": pl.String, "title": pl.String, "store": pl.String, "categories": pl.List(pl.String)}
        pl.DataFrame(lines, schema=schema, orient="row").write_parquet(folder / "items.parquet")
        return folder

    return writer
