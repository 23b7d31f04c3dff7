"""CTRL and RECFORMER end to end on tiny data: trained, kept in a folder, ranked from there alone."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import stages.rank
import stages.train
from llmsrec import params, systems
from llmsrec.data.split import split_interactions
from llmsrec.models.cf import teacher
from llmsrec.systems import ctrl, recformer
from llmsrec.systems.task import Task
from llmsrec.training import next_item
from stages import common

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's folder with data of 30 items and a backbone, as the stages leave them."""
    for name in ("data/filtered", "models/backbone"):
        shutil.copytree(tiny.folder / name, tmp_path / name)
    split_interactions(tmp_path / "data/filtered", tmp_path / "data/split", 9, False, 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def task(place: Path, system: str, resume: str = "resume", **changes: Any) -> Task:
    settings = systems.settings(system, "retrieval", ROOT / f"systems/{system}.yaml").model_copy(update=changes)
    every = params.load(ROOT / "params.yaml")
    small = every.sasrec.model_copy(update={"dim": 8, "max_length": 6, "epochs": 2})
    read = SimpleNamespace(
        data=every.data, split=every.split, backbone=every.backbone, evaluate=every.evaluate, sasrec=small
    )
    folder = place / systems.folder(system, "retrieval")
    return Task(system, "retrieval", settings, read, folder, place / resume, place, "cpu")


SMALL = {
    "dim": 8, "layers": 1, "max_tokens": 64, "pretrain_epochs": 1, "epochs": 1, "frozen_epochs": 1,
    "evaluations_per_epoch": 1, "validation_users": 10,
}  # fmt: skip


@pytest.mark.parametrize(
    ("system", "changes"),
    [("ctrl", {}), ("ctrl", {"alignment": "contrastive", "alignment_epochs": 1}), ("recformer", SMALL)],
    ids=["ctrl", "ctrl aligned", "recformer"],
)
def test_a_system_ranks_every_user_of_every_split_from_its_folder_alone(place, system, changes):
    given = task(place, system, **changes)
    curve = systems.module(system, "retrieval").train(given)
    shutil.rmtree(given.resume)
    ranked = systems.module(system, "retrieval").rank(task(place, system, **changes))
    for ranks in (ranked.ranks, *ranked.beside.values()):
        for split in ("valid", "test", "test_shuffled"):
            assert {protocol: of.shape for protocol, of in ranks[split].items()} == {"full": (40,), "uni99": (40,)}
            assert ranks[split]["full"].max() < 30 and ranks[split]["uni99"].max() <= 9
    assert all({"epoch", "loss"} <= row.keys() for row in curve)
    assert all(isinstance(value, int | float) for row in curve for value in row.values()), "what MLflow logs"


@pytest.mark.parametrize(("system", "changes"), [("ctrl", {}), ("recformer", SMALL)])
def test_a_training_that_is_asked_for_again_is_only_read(place, system, changes, capsys):
    module = systems.module(system, "retrieval")
    first = module.train(task(place, system, **changes))
    files = {path: path.read_bytes() for path in (place / "models" / system).rglob("*.safetensors")}
    capsys.readouterr()
    assert module.train(task(place, system, **changes)) == first
    assert files == {path: path.read_bytes() for path in (place / "models" / system).rglob("*.safetensors")}
    assert "text vectors" not in capsys.readouterr().out


def test_ctrls_control_is_the_main_ways_sasrec(place):
    given = task(place, "ctrl")
    curve = ctrl.train(given)
    of = given.sequences, given.valid.histories, given.valid.targets, given.items, given.params.sasrec
    plain, rows = next_item.train(*of, place / "plain")
    control = teacher.load(given.folder / "ctrl_random")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), control.parameters(), strict=True))
    assert [row["control/loss"] for row in curve] == [row["loss"] for row in rows]
    ranked = ctrl.rank(given)
    assert list(ranked.beside) == ["ctrl_random"]
    users = teacher.load(given.folder, "ctrl").user_vectors(given.cases["test"].histories).numpy()[1:]
    assert np.array_equal(ctrl.vectors(given, "ctrl")["test"], users), "what ranks is what teaches"


def test_the_alignments_epochs_come_first_and_a_control_may_take_longer():
    own, control = ([{"epoch": n + 1, "loss": 1.0, "score": 0.5} for n in range(count)] for count in (1, 2))
    assert ctrl.beside([{"step": 9, "epoch": 1.0, "loss": 3.0}], own, control) == [
        {"epoch": 1, "loss": 3.0},
        {"epoch": 2, "loss": 1.0, "score": 0.5, "control/loss": 1.0, "control/score": 0.5},
        {"epoch": 3, "control/loss": 1.0, "control/score": 0.5},
    ]


def test_the_stages_train_rank_and_say_what_came_of_it(place, monkeypatch, capsys):
    for name in ("src", "stages", "systems"):
        (place / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "baselines", place / "baselines")
    text = (ROOT / "params.yaml").read_text()
    (place / "params.yaml").write_text(text.replace("  epochs: 100\n", "  epochs: 1\n"))
    (place / "reports").mkdir()
    (place / "reports/passed.txt").touch()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for stage, name in ((stages.train, "train@ctrl-retrieval"), (stages.rank, "rank@ctrl-retrieval")):
        stage.main(common.load(name, Path("baselines")))
    assert "ctrl-retrieval test/uni99: ndcg_10 " in capsys.readouterr().out
    ranks = pl.read_parquet(place / "reports/ranks/ctrl-retrieval.parquet")
    assert set(ranks["model"]) == {"ctrl", "ctrl_random"} and ranks.height == 2 * 3 * 2 * 40


def test_recformers_vectors_are_those_of_its_files(place):
    given = task(place, "recformer", **SMALL)
    recformer.train(given)
    first, again = (recformer.rank(task(place, "recformer", **SMALL)).ranks for _ in range(2))
    assert np.array_equal(first["test"]["full"], again["test"]["full"])
    assert not (given.folder / "backbone.json").exists(), "its weights are its own"
