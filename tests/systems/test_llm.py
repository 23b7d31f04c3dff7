"""TALLRec, LLaRA, CoLLM and A-LLMRec in retrieval, end to end on tiny data."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from llmsrec import params, systems
from llmsrec.data.split import split_interactions
from llmsrec.errors import ParamsError
from llmsrec.files import read_json
from llmsrec.models.llm import allmrec
from llmsrec.models.llm.settings import LLMSettings, changed
from llmsrec.systems import a_llmrec, llm
from llmsrec.systems.task import Task

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"d_prime": 8, "head_hidden": 16, "history": 4, "title_tokens": 8, "max_tokens": 300}


@pytest.fixture
def place(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's folder with data of 30 items, a backbone and a teacher, as the stages leave them."""
    for name in ("data/filtered", "models/backbone", "models/sasrec"):
        shutil.copytree(tiny.folder / name, tmp_path / name)
    split_interactions(tmp_path / "data/filtered", tmp_path / "data/split", 9, False, 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def task(place: Path, system: str, **changes: Any) -> Task:
    settings = systems.settings(system, "retrieval", ROOT / f"systems/{system}.yaml").model_copy(update=changes)
    every = params.load(ROOT / "params.yaml")
    read = SimpleNamespace(
        data=every.data, split=every.split, backbone=every.backbone, evaluate=every.evaluate,
        model=every.model.model_copy(update=SMALL), train=every.train.model_copy(update={"targets": "last"}),
    )  # fmt: skip
    folder = place / systems.folder(system, "retrieval")
    return Task(system, "retrieval", settings, read, folder, place / "resume", place, "cpu")


@pytest.mark.parametrize(
    ("system", "schedule"), [("tallrec", "joint"), ("llara", "curriculum"), ("collm", "joint"), ("collm", "two_steps")]
)
def test_a_system_ranks_every_user_of_every_split_from_its_folder(place: Path, system: str, schedule: str) -> None:
    given = task(place, system, schedule=schedule)
    curve = llm.train(given)
    shutil.rmtree(given.resume)
    ranked = llm.rank(task(place, system))
    for split in ("valid", "test", "test_shuffled"):
        assert {protocol: of.shape for protocol, of in ranked.ranks[split].items()} == {"full": (40,), "uni99": (40,)}
    assert all({"epoch", "loss", "retrieval"} <= row.keys() for row in curve)
    assert not {"distill", "uniform", "cf_retrieval"} & curve[0].keys(), "LLM-SRec's own"
    config = read_json(given.folder / "config.json")
    assert config["parts"] == {"item_embedding": system != "tallrec", "cf_user": False}
    assert config["backbone"]["lora_targets"] == ("all_linear" if system == "llara" else "query_value")


def test_a_llmrec_reads_the_codes_of_its_stage_1_and_trains_no_language_model(place: Path) -> None:
    given = task(place, "a_llmrec")
    stage1 = given.settings.stage1.model_copy(update={"train": {"epochs": 2}, "code": 12})
    given = replace(given, settings=given.settings.model_copy(update={"stage1": stage1}))
    a_llmrec.train_stage1(replace(given, folder=place / allmrec.STAGE1, resume=place / "resume1"))
    llm.train(given)
    shutil.rmtree(place / allmrec.STAGE1)
    ranked = llm.rank(given)
    assert ranked.ranks["test"]["full"].shape == (40,)
    names = set(load_file(given.folder / "model.safetensors"))
    assert {name.split(".")[0] for name in names} == {"f_I", "f_U", "f_user", "f_item", "user_out", "item_out"}
    assert load_file(given.folder / "model.safetensors")["f_I.0.weight"].shape[1] == 12


def test_a_file_says_what_differs_from_params_yaml(place: Path) -> None:
    model, train = llm.settings_of(task(place, "collm"))
    assert (model.user_representation, model.distill, model.uniform) == (True, False, False)
    assert (train.epochs, train.lr) == (3, params.load(ROOT / "params.yaml").train.lr)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schedule": "curriculum", "item_embedding": False}, "curriculum is about item embeddings"),
        ({"retrieval": {"train": {"epoch": 3}}}, "params.yaml has no train.epoch"),
        ({"lora": {"rank": 8, "alpha": 16, "targets": "q_proj"}}, "query_value"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, Any], said: str) -> None:
    whole = {"item_embedding": True, "user_representation": False, "lora": None, "schedule": "joint"}
    with pytest.raises(ValidationError, match=said):
        LLMSettings.model_validate(whole | values)


def test_a_value_that_params_yaml_would_refuse_is_refused_with_its_file() -> None:
    with pytest.raises(ParamsError, match=r"systems/llara\.yaml: `epochs` is 0: .*must be 1 or more"):
        changed(params.load(ROOT / "params.yaml").train, {"epochs": 0}, "systems/llara.yaml")
