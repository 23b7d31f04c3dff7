"""GRU4Rec, BERT4Rec and NextItNet as systems: trained, saved, ranked; and their settings' files."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmsrec import params, systems
from llmsrec.data.split import split_interactions
from llmsrec.errors import ParamsError
from llmsrec.evaluation import metrics
from llmsrec.models.cf import teacher
from llmsrec.systems import cf
from llmsrec.systems.task import Task

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("system", systems.CF)
def test_the_committed_settings_build_the_system(system: str) -> None:
    settings: Any = systems.settings(system, "retrieval", ROOT / f"systems/{system}.yaml")
    assert settings.system == system
    model = teacher.create(system, 30, settings.shape())
    assert model.system == system and model.max_length == settings.max_length


@pytest.mark.parametrize(
    ("system", "old", "new", "said"),
    [
        ("gru4rec", "hidden: 128", "hidden: 0", "hidden"),
        ("gru4rec", "hidden:", "hiden:", "hidden"),
        ("bert4rec", "heads: 1", "heads: 3", "dim 64 must be a multiple of heads 3"),
        ("bert4rec", "mask_share: 0.2", "mask_share: 1.5", "mask_share"),
        ("nextitnet", "- 2", "- 0", "numbers of positions"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_file_and_the_key(
    tmp_path: Path, system: str, old: str, new: str, said: str
) -> None:
    text = (ROOT / f"systems/{system}.yaml").read_text()
    assert old in text
    file = tmp_path / f"{system}.yaml"
    file.write_text(text.replace(old, new))
    with pytest.raises(ParamsError, match=f"{system}.yaml.*{said}") as caught:
        systems.settings(system, "retrieval", file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("system", systems.CF)
def test_a_system_ranks_every_user_of_every_split_from_its_folder_alone(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    shutil.copytree(tiny.folder / "data/filtered", tmp_path / "data/filtered")
    split_interactions(tmp_path / "data/filtered", tmp_path / "data/split", 9, False, 0)
    monkeypatch.chdir(tmp_path)
    every = params.load(ROOT / "params.yaml")
    settings = systems.settings(system, "retrieval", ROOT / f"systems/{system}.yaml")
    given = Task(
        system,
        "retrieval",
        settings.model_copy(update={"dim": 8, "max_length": 6, "epochs": 2}),
        SimpleNamespace(data=every.data, split=every.split, evaluate=every.evaluate),
        Path("models") / system,
        Path("resume"),
        tmp_path,
        "cpu",
    )
    curve = cf.train(given)
    shutil.rmtree(given.resume)
    ranks = cf.rank(given).ranks
    for split in ("valid", "test", "test_shuffled"):
        assert {protocol: of.shape for protocol, of in ranks[split].items()} == {"full": (40,), "uni99": (40,)}
        assert ranks[split]["full"].max() < 30 and ranks[split]["uni99"].max() <= 9
    gains = metrics.ndcg(ranks["valid"]["full"], 10)
    assert gains.mean() == pytest.approx(max(row["valid/full/ndcg_10"] for row in curve))
