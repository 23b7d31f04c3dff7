"""The tiny model's data with raw users' ids."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmsrec.serving.bundle import Bundle
from llmsrec.serving.recommender import Recommender


@pytest.fixture(scope="session")
def data(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like data/filtered: user 7 is `ü/7`."""
    folder = tmp_path_factory.mktemp("root") / "data/filtered"
    shutil.copytree(tiny.folder / "data/filtered", folder)
    users = pl.DataFrame({"user_id": range(1, 41)}, schema={"user_id": pl.Int32})
    users.with_columns(raw_user_id=pl.format("ü/{}", "user_id")).write_parquet(folder / "users.parquet")
    return folder


@pytest.fixture(scope="session")
def bundle(tiny: Any) -> Bundle:
    return Bundle.open(tiny.bundle)


@pytest.fixture(scope="session")
def recommender(bundle: Bundle) -> Recommender:
    return Recommender(bundle)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks, buckets, parts and batches so small that the tiny data has several of each."""
    from llmsrec.scoring import batches, histories, score

    monkeypatch.setattr(histories, "ROWS", 50)
    monkeypatch.setattr(histories, "BYTES", 400)
    monkeypatch.setattr(histories, "EVENTS", 64)
    monkeypatch.setattr(score, "USERS", 4)
    monkeypatch.setattr(batches, "POSITIONS", 600)
    yield
