"""Systems that are asked about items of other data: what they know of them, and what not."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from llmsrec import params, systems
from llmsrec.data.split import split_interactions
from llmsrec.engine import backbone as backbones
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.errors import DataError
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.llm import allmrec, retrieval
from llmsrec.systems import a_llmrec, llm, unseen
from llmsrec.systems.task import Task
from tests.conftest import TEACHERS
from tests.systems.test_llm import SMALL

ROOT = Path(__file__).resolve().parents[2]
OTHERS = 17  # items of the other data


@pytest.fixture
def place(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was trained on 30 items, and data of 25 users of 17 others, two of which have one title."""
    for name in ("data/filtered", "models"):
        shutil.copytree(tiny.folder / name, tmp_path / name)
    split_interactions(tmp_path / "data/filtered", tmp_path / "data/split", 9, False, 0)
    other, rng = tmp_path / "data/target/filtered", np.random.default_rng(3)
    other.mkdir(parents=True)
    items = pl.DataFrame({"item_id": np.arange(1, OTHERS + 1, dtype=np.int32)}).with_columns(
        parent_asin=pl.format("T{}", "item_id"),
        title=pl.format("{} roses", pl.col("item_id").clip(upper_bound=OTHERS - 1)),
    )
    items.write_parquet(other / "items.parquet")
    events = {
        "user_id": np.repeat(np.arange(1, 26, dtype=np.int32), 5),
        "item_id": np.concatenate([rng.permutation(OTHERS)[:5] + 1 for _ in range(25)]).astype(np.int32),
        "timestamp": np.tile(1_500_000_000_000 + np.arange(5) * 86_400_000, 25),
    }
    pl.DataFrame(events).write_parquet(other / "interactions.parquet")
    split_interactions(other, other.parent / "split", 9, False, 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def task(place: Path, system: str = "llm_srec") -> Task:
    every = params.load(ROOT / "params.yaml")
    read = SimpleNamespace(
        data=every.data, split=every.split, backbone=every.backbone, evaluate=every.evaluate,
        model=every.model.model_copy(update=SMALL), train=every.train,
    )  # fmt: skip
    settings = None
    if system == "a_llmrec":
        settings = systems.settings(system, "retrieval", ROOT / "systems/a_llmrec.yaml")
        stage1 = settings.stage1.model_copy(update={"train": {"epochs": 1}, "code": 12})
        settings = settings.model_copy(update={"stage1": stage1})
    return Task(
        system, "retrieval", settings, read, place / "there" / system, place / "resume", place, "cpu",
        Path("data/target"), place / "there/models",
    )  # fmt: skip


@pytest.mark.parametrize("system", TEACHERS)
def test_a_teacher_tells_items_that_it_never_met_apart_by_nothing(system: str) -> None:
    teacher = teachers.create(system, 30, {"dim": 16, "max_length": 6} | TEACHERS[system])
    teacher.initialise(torch.Generator().manual_seed(2)).eval()
    other = unseen.never_met(teacher, OTHERS)
    learnt, vectors = teacher.item_vectors().detach(), other.item_vectors().detach()
    assert vectors.shape == (OTHERS + 1, learnt.shape[1]) and torch.equal(vectors[0], learnt[0])
    mean = np.mean([learnt[item].numpy() for item in range(1, 31)], axis=0)
    np.testing.assert_allclose(vectors[1:].numpy(), np.tile(mean, (OTHERS, 1)), atol=1e-6)
    histories = torch.tensor([[0, 0, 1, 2], [0, 0, 9, OTHERS]])
    with torch.no_grad():
        torch.testing.assert_close(other.last(histories)[0], other.last(histories)[1])
        learnt[1:] = torch.from_numpy(mean)  # the slow way: the same network, its own items made alike
        torch.testing.assert_close(teacher.last(torch.tensor([[0, 0, 4, 5]])), other.last(histories)[:1])


def test_every_user_of_the_other_data_is_ranked_by_titles_alone(place: Path) -> None:
    given = task(place)
    unseen.prepare(given, Path("models/llm_srec"), Path("models"))
    ranked = llm.rank(given)
    for split in ("valid", "test", "test_shuffled"):
        assert {protocol: of.shape for protocol, of in ranked.ranks[split].items()} == {"full": (25,), "uni99": (25,)}
    model = retrieval.load(given.folder, Path("models/backbone"), given.models / "sasrec", given.catalogue)
    vectors = model.item_vectors()
    torch.testing.assert_close(vectors[OTHERS], vectors[OTHERS - 1])  # one title
    assert not torch.allclose(vectors[1], vectors[2])
    # The slow way, user by user: the trained model's own layers around prompts of the new titles.
    cases = given.cases["test"]
    for user in range(0, 25, 8):
        items, times = cases.histories.of(user + 1)
        with torch.no_grad():
            scores = vectors @ model.f_user(model.hidden_users([items], [times]))[0]
        margin = scores[cases.negatives[user].astype(np.int64)] - scores[int(cases.targets[user])]
        at_least, at_most = int((margin > 1e-4).sum()), int((margin > -1e-4).sum())
        assert at_least <= ranked.ranks["test"]["uni99"][user] <= at_most


def test_what_was_trained_is_left_as_it_was(place: Path) -> None:
    before = {path: path.read_bytes() for path in (place / "models").rglob("*") if path.is_file()}
    unseen.prepare(task(place), Path("models/llm_srec"), Path("models"))
    assert before == {path: path.read_bytes() for path in (place / "models").rglob("*") if path.is_file()}


def test_a_llmrec_reads_the_codes_of_the_new_titles(place: Path) -> None:
    given = task(place, "a_llmrec")
    own = replace(given, data=Path("data"), models=Path("models"))
    a_llmrec.train_stage1(replace(own, folder=allmrec.STAGE1, resume=place / "resume1"))
    llm.train(replace(own, folder=place / "models/a_llmrec-retrieval"))
    unseen.prepare(given, Path("models/a_llmrec-retrieval"), Path("models"))
    codes = allmrec.read(given.folder, OTHERS)
    texts = text_vectors(backbones.load(Path("models/backbone")), given.titles).double()[1:]
    texts = (texts - texts.mean(0)) / (texts.std(0) + 1e-6)
    trained = allmrec.load(allmrec.STAGE1).double()
    slow = torch.sigmoid(texts @ trained.text_encoder.weight.T + trained.text_encoder.bias)
    torch.testing.assert_close(codes[1:].double(), slow.detach(), atol=1e-5, rtol=1e-4)
    assert not codes[0].any() and len(codes) == OTHERS + 1
    assert llm.rank(given).ranks["test"]["full"].shape == (25,)


def test_a_system_that_was_not_trained_is_one_clear_error(place: Path) -> None:
    shutil.rmtree(place / "models/sasrec")
    with pytest.raises(DataError, match=r"models/sasrec/config\.json"):
        unseen.prepare(task(place), Path("models/llm_srec"), Path("models"))
    with pytest.raises(DataError, match="stage1@a_llmrec"):
        allmrec.load(place)
