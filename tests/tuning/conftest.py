"""A repository's folder with tiny data, an untrained checkpoint and a study of seconds."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmsrec.registry import tracking
from tests.params_file import set_params

ROOT = Path(__file__).resolve().parents[2]
TRAIN = {"batch_size": 8, "lr": 0.003, "epochs": 2, "evaluations_per_epoch": 2}
SPACE = [
    {"key": "model.d_prime", "choices": [8, 16, 128]},
    {"key": "model.weights.distill", "low": 0.1, "high": 10.0, "log": True},
    {"key": "model.candidates", "low": 2, "high": 6},
]


@dataclass(frozen=True)
class Place:
    """A folder in which `llmsrec tune` runs."""

    folder: Path

    def edit(self, **values: Any) -> None:
        """Set keys of params.yaml, with `__` for the dot; comments stay, as in the file that users have."""
        set_params(self.folder / "params.yaml", {key.replace("__", "."): value for key, value in values.items()})


@pytest.fixture(scope="session")
def prepared(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's files, split as the pipeline splits them."""
    folder = tmp_path_factory.mktemp("tuning")
    for name in ("data/filtered", "models/backbone", "models/sasrec", "models/llm_srec"):
        shutil.copytree(tiny.folder / name, folder / name)
    events = pl.read_parquet(folder / "data/filtered/interactions.parquet")
    place = pl.int_range(pl.len()).over("user_id").reverse().over("user_id")
    (folder / "data/split").mkdir()
    events.filter(place >= 2).write_parquet(folder / "data/split/train.parquet")
    valid = events.filter(place == 1)
    valid.write_parquet(folder / "data/split/valid.parquet")
    negatives = np.random.default_rng(0).integers(1, 31, (len(valid), 9))
    valid.select(
        "user_id", split=pl.lit("valid"), item_id="item_id", negatives=pl.Series(negatives.tolist())
    ).write_parquet(folder / "data/split/candidates.parquet")
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    settings = {f"model__{key}": value for key, value in tiny.config["model"].items()}
    training = {f"train__{key}": value for key, value in TRAIN.items()}
    study = {"tune__fidelity": "heads", "tune__space": SPACE, "tune__trials": 3, "tune__heartbeat": 1}
    Place(folder).edit(**settings, **training, **study)
    with tracking.connected(folder) as client:
        client.search_experiments()  # makes the database, which takes seconds
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A fresh copy, in which the test runs."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path)
