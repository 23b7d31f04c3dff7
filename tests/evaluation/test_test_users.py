"""The test users that are kept with a version."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmsrec.errors import DataError
from llmsrec.evaluation import test_users


def test_each_user_has_all_events_but_the_last_and_the_last_as_target(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.folder / "data/filtered"
    kept = test_users.of_data(folder, 1000, seed=0)
    events, asins = pl.read_parquet(folder / "interactions.parquet"), {i: f"B{i}" for i in range(1, 31)}
    assert kept["user_id"].to_list() == list(range(1, 41))
    for user in kept.to_dicts():
        own = events.filter(user_id=user["user_id"])
        assert [*user["history"], user["target"]] == [asins[item] for item in own["item_id"]]
        assert user["timestamps"] == own["timestamp"].to_list()[:-1]
    test_users.write(tmp_path, folder, 1000, seed=0)
    assert pl.read_parquet(tmp_path / "test_users.parquet").equals(kept)


def test_of_more_users_than_wanted_a_seeded_sample_is_kept(tiny: Any) -> None:
    folder = tiny.folder / "data/filtered"
    everyone, some = test_users.of_data(folder, 40, seed=1), test_users.of_data(folder, 7, seed=1)
    assert len(some) == 7 and some["user_id"].is_sorted()
    assert some.equals(everyone.filter(pl.col("user_id").is_in(some["user_id"].to_list())))
    assert some.equals(test_users.of_data(folder, 7, seed=1)) and not some.equals(test_users.of_data(folder, 7, seed=2))


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"interactions\.parquet is not there; `dvc repro filter`"):
        test_users.of_data(tmp_path, 10, seed=0)
