"""The stages `texts` and `sasrec` with a teacher that knows titles."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from ruamel.yaml import YAML

from llmsrec.data import split
from llmsrec.engine import backbone
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.files import read_json, sha256, write_json
from llmsrec.models.cf import teacher
from llmsrec.models.text import item_vectors, kept_vectors

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tiny: Any, tmp_path: Path) -> Path:
    """The code beside data and language model of 30 items, and a teacher of two short epochs that knows both."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(tiny.folder / "data/filtered", tmp_path / "data/filtered")
    for name in ("backbone", "start"):
        shutil.copytree(tiny.folder / "models" / name, tmp_path / "models" / name)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/passed.txt").write_text("All checks passed.\n")
    split.split_interactions(tmp_path / "data/filtered", tmp_path / "data/split", 9, False, 0)
    change(tmp_path, items="sum", dim=8, epochs=2)
    return tmp_path


def change(folder: Path, **sasrec: Any) -> None:
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text())
    values["sasrec"].update(sasrec)
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(values, file)


def run(folder: Path, stage: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'src'}"}
    environment.pop("DVC_ROOT", None)
    command = [sys.executable, "-m", f"stages.{stage}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_teacher_is_trained_from_the_titles_as_the_backbone_reads_them(repository: Path) -> None:
    done = run(repository, "texts")
    assert done.returncode == 0, done.stderr
    titles = pl.read_parquet(repository / "data/filtered/items.parquet")["title"].to_list()
    vectors = text_vectors(backbone.load(repository / "models/backbone"), titles)
    assert torch.equal(kept_vectors.read(repository / "models/texts"), vectors)
    for items in ("text", "sum", "null_space"):
        record = read_json(repository / f"stages/items/{items}.json")
        assert record == {"vectors": sha256(repository / "models/texts")}
    done = run(repository, "sasrec")
    assert done.returncode == 0, done.stderr
    trained, of_titles = (of(repository / "models/sasrec") for of in (teacher.load, item_vectors.load))
    by_title = vectors[1:] @ of_titles["projection"] + of_titles["bias"]
    residual = trained.item_vectors().detach()[1:] - by_title
    np.testing.assert_allclose(residual.mean(dim=0), np.zeros(8), atol=1e-4)  # the ids', about their mean
    assert residual.norm() < by_title.norm()


def test_without_titles_no_text_is_asked_for(repository: Path) -> None:
    change(repository, items="id", dim=8, epochs=1)
    shutil.rmtree(repository / "models/backbone")
    done = run(repository, "sasrec")
    assert done.returncode == 0, done.stderr
    assert item_vectors.load(repository / "models/sasrec") is None


def test_a_version_cannot_be_gone_on_from_by_titles(repository: Path) -> None:
    assert run(repository, "texts").returncode == 0
    record = {"version": "shop/3", "bundle_sha256": "", "settings": {}, "backbone": ""}
    write_json(repository / "models/start/start.json", record)
    done = run(repository, "sasrec")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "`sasrec.items` is sum, but shop/3 in `train.start` has item vectors as one table" in line
