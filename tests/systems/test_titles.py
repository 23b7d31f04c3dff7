"""TALLRec, LLaRA, CoLLM and A-LLMRec by title, end to end on tiny data."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file

from llmsrec import params, systems
from llmsrec.data import choices, split
from llmsrec.errors import DataError
from llmsrec.evaluation import metrics
from llmsrec.files import read_json
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.llm import allmrec
from llmsrec.systems import a_llmrec, titles
from llmsrec.systems.task import Task

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"history": 4, "title_tokens": 8, "max_tokens": 500}


@pytest.fixture
def place(tiny: Any, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's folder with data of 30 items, their titles drawn, a backbone and a teacher."""
    for name in ("data/filtered", "models/sasrec"):
        shutil.copytree(tiny.folder / name, tmp_path / name)
    shutil.copytree(backbone_folder, tmp_path / "models/backbone")
    split.split_interactions(tmp_path / "data/filtered", tmp_path / "data/split", 9, False, 0)
    monkeypatch.chdir(tmp_path)
    names = pl.read_parquet("data/filtered/items.parquet")["title"].to_list()
    titles.DRAWN.parent.mkdir()
    blocks = partial(split.blocks, Path("data/filtered/interactions.parquet"), None)
    choices.write(titles.DRAWN, blocks, choices.Titles.of(names), 0)
    return tmp_path


def task(place: Path, system: str) -> Task:
    every = params.load(ROOT / "params.yaml")
    read = SimpleNamespace(
        data=every.data, split=every.split, backbone=every.backbone, evaluate=every.evaluate,
        model=every.model.model_copy(update=SMALL), train=every.train,
    )  # fmt: skip
    settings = systems.settings(system, "titles", ROOT / f"systems/{system}.yaml")
    small = settings.titles.model_copy(update={"train": {"epochs": 1, "evaluations_per_epoch": 1, "lr": 0.01}})
    folder = place / systems.folder(system, "titles")
    return Task(
        system, "titles", settings.model_copy(update={"titles": small}), read, folder, place / "resume", place, "cpu"
    )


@pytest.mark.parametrize("system", ["tallrec", "llara", "collm"])
def test_a_system_has_three_readings_of_every_user_of_every_split(place: Path, system: str) -> None:
    given = task(place, system)
    curve = titles.train(given)
    assert curve[0].keys() >= {"epoch", "loss", "title", "valid/uni19_mean_likelihood/hr_1"}
    shutil.rmtree(given.resume)
    ranked = titles.rank(task(place, system))
    for of_split in ("valid", "test", "test_shuffled"):
        of = ranked.ranks[of_split]
        assert list(of) == ["uni19_likelihood", "uni19_mean_likelihood", "uni19_generated"]
        for ranks in of.values():
            assert ranks.shape == (40,) and ranks.dtype == np.int32 and 0 <= ranks.min() <= ranks.max() <= 19
        assert set(of["uni19_generated"].tolist()) <= {0, 19}
        ratio = ranked.figures[of_split]["uni19_generated"]["valid_ratio"]
        assert metrics.hr(of["uni19_generated"], 1).mean() <= ratio <= 1
    best = max(row["valid/uni19_mean_likelihood/hr_1"] for row in curve)
    assert metrics.hr(ranked.ranks["valid"]["uni19_mean_likelihood"], 1).mean() == best
    config = read_json(given.folder / "config.json")
    assert config["item_embedding"] == (system != "tallrec")
    assert config["backbone"]["lora_targets"] == ("all_linear" if system == "llara" else "query_value")


def test_a_llmrec_reads_the_codes_of_its_stage_1_and_trains_no_language_model(place: Path) -> None:
    given = task(place, "a_llmrec")
    stage1 = given.settings.stage1.model_copy(update={"train": {"epochs": 2}, "code": 12})
    given = replace(given, settings=given.settings.model_copy(update={"stage1": stage1}))
    a_llmrec.train_stage1(replace(given, folder=place / allmrec.STAGE1, resume=place / "resume1"))
    titles.train(given)
    shutil.rmtree(place / allmrec.STAGE1)
    assert titles.rank(given).ranks["test"]["uni19_likelihood"].shape == (40,)
    tensors = load_file(given.folder / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"f_I", "f_U"}
    assert tensors["f_I.0.weight"].shape[1] == 12


def test_sasrecs_ranks_are_among_the_same_20_items(place: Path) -> None:
    given = task(place, "collm")
    teacher = teachers.load(given.models / "sasrec")
    cases = given.cases["test"]
    drawn = titles.stored(cases.users, "test")
    vectors, items = teacher.user_vectors(cases.histories)[1:], teacher.item_vectors()
    for row, rank in enumerate(titles.ranks_of_teacher(teacher, cases, drawn)):
        scores = (vectors[row] @ items[drawn.items[row].astype(np.int64)].T).tolist()
        positive = scores[drawn.places[row]]
        assert rank == sum(score >= positive for score in scores) - 1
        assert drawn.items[row, drawn.places[row]] == cases.targets[row]


def test_titles_of_other_users_are_one_clear_error(place: Path) -> None:
    frame = pl.read_parquet(titles.DRAWN)
    frame[:-1].write_parquet(titles.DRAWN)
    with pytest.raises(DataError, match=r"holds titles of 39 users of test, and the split asks about 40, not the same"):
        titles.stored(task(place, "collm").cases["test"].users, "test")
