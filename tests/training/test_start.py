"""A training that begins from a version: rows by parent_asin, everything else as it was, other shapes refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from llmsrec import params, progress
from llmsrec.engine.backbone_files import identity
from llmsrec.errors import DataError, ParamsError
from llmsrec.models.cf import sasrec
from llmsrec.models.llm import retrieval as llm_srec
from llmsrec.params import Model, Train
from llmsrec.registry.start import extract
from llmsrec.serving.bundle import Bundle
from llmsrec.training import start
from llmsrec.training.next_item import train as train_sasrec
from llmsrec.training.retrieval import Validation, train
from tests.training.test_next_item import settings

ITEMS = [f"B{number}" for number in range(1, 31)]


@pytest.fixture(scope="module")
def begin(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> start.Start:
    folder = tmp_path_factory.mktemp("start")
    extract(Bundle.open(tiny.bundle), "shop/3", folder)
    version = start.read(folder)
    assert version is not None
    return version


def fresh_teacher(items: int) -> sasrec.SASRec:
    model = sasrec.SASRec(items=items, dim=16, blocks=2, heads=2, max_length=6, dropout=0.2)
    return model.initialise(torch.Generator().manual_seed(9)).eval()


def test_items_are_matched_by_parent_asin_and_new_ones_keep_fresh_rows(tiny: Any, begin: start.Start) -> None:
    asins = ["new 1", *np.random.default_rng(0).permutation(ITEMS[5:]).tolist(), "new 2"]
    model, fresh = fresh_teacher(len(asins)), fresh_teacher(len(asins))
    assert begin.fill_teacher(model, asins) == 25
    old = tiny.model.teacher.item_vectors()
    for row, asin in enumerate(asins, start=1):  # one by one
        expected = old[ITEMS.index(asin) + 1] if asin in ITEMS else fresh.item_vectors()[row]
        assert torch.equal(model.item_vectors()[row], expected), asin
    assert not model.item_vectors()[0].any()
    # A history of known items has the vector that the version gives it, whatever the items' numbers are now.
    renumbered = torch.tensor([[asins.index(asin) + 1 for asin in ("B7", "B30", "B12")]])
    original = torch.tensor([[7, 30, 12]])
    torch.testing.assert_close(model.last(renumbered), tiny.model.teacher.last(original))


def test_where_no_item_is_known_all_rows_are_fresh(begin: start.Start) -> None:
    model, fresh = fresh_teacher(3), fresh_teacher(3)
    assert begin.fill_teacher(model, ["a", "b", "c"]) == 0
    assert torch.equal(model.item_vectors(), fresh.item_vectors())
    assert not torch.equal(model.norm.bias, fresh.norm.bias) or not torch.equal(
        model.position.weight, fresh.position.weight
    )


def test_heads_and_tokens_begin_as_the_versions(tiny: Any, begin: start.Start) -> None:
    paths = tiny.folder / "models/backbone", tiny.folder / "models/sasrec", tiny.folder / "data/filtered/items.parquet"
    model = llm_srec.build(*paths, tiny.config["model"], tiny.config["backbone"], seed=5)
    assert not torch.equal(model.f_item[0].weight, tiny.model.f_item[0].weight)
    begin.fill(model.trainable())
    torch.testing.assert_close(model.item_vectors(), tiny.model.item_vectors())
    users = np.arange(1, 5)
    torch.testing.assert_close(
        model.user_vectors(tiny.sequences, users), tiny.model.user_vectors(tiny.sequences, users)
    )


def test_all_settings_that_differ_are_named_and_others_may(begin: start.Start) -> None:
    committed = params.load(Path(__file__).parents[2] / "params.yaml")
    shape = {"dim", "blocks", "heads", "max_length"}
    with pytest.raises(ParamsError) as caught:
        begin.check(
            start.shape_of("sasrec", committed.sasrec, shape) | start.shape_of("model", committed.model, {"d_prime"})
        )
    said = str(caught.value)
    assert said.startswith("`train.start`: this training cannot begin from shop/3: ")
    for part in (
        "sasrec.dim is 64 here and 16 there",
        "sasrec.heads is 1 here and 2 there",
        "model.d_prime is 128 here",
    ):
        assert part in said
    assert "sasrec.blocks" not in said and "\n" not in said
    begin.check({"sasrec.blocks": 2, "model.history": 99})


def test_another_backbone_is_refused_and_its_own_is_put_there(tiny: Any, begin: start.Start, tmp_path: Path) -> None:
    begin.copy_backbone(tmp_path / "backbone")
    begin.check_backbone(identity(tmp_path / "backbone"), "embedded")
    config = tmp_path / "backbone/config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ParamsError, match=r"another backbone than `backbone\.model` embedded is now"):
        begin.check_backbone(identity(tmp_path / "backbone"), "embedded")


def test_weights_that_do_not_fit_are_named(begin: start.Start) -> None:
    with pytest.raises(DataError, match=r"the weights of shop/3 do not fit: f_I\.0\.bias"):
        begin.fill({"f_U.0.weight": torch.nn.Parameter(torch.zeros(2))})
    with pytest.raises(DataError, match=r"the weights of shop/3 do not fit: position\.weight"):
        begin.fill_teacher(sasrec.SASRec(items=3, dim=16, blocks=2, heads=2, max_length=7, dropout=0.0), ["B1"])


def test_damaged_weights_are_one_line(begin: start.Start, tmp_path: Path) -> None:
    (tmp_path / "heads.safetensors").write_bytes(b"no tensors")
    other = start.Start(tmp_path, "shop/3", "0", {}, "")
    with pytest.raises(DataError, match=r"heads.safetensors cannot be read .*`dvc repro -f start`"):
        other.fill({})


def test_a_warm_training_changes_nothing_before_its_first_step(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With steps of no size, it ends as it began; a cold one has standardised its heads, and says how far it is."""
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    loop = Train(
        start="shop/3", targets="all", batch_size=20, lr=1e-30, lr_decay=0.9, beta2=0.98, weight_decay=0.0,
        input_lr=0.1, epochs=1, evaluations_per_epoch=1, patience=10, monitor="uni99/ndcg_10", seed=0,
    )  # fmt: skip
    users = np.arange(1, 31)
    last = tiny.sequences.offsets[users + 1] - 1
    negatives = np.random.default_rng(0).integers(1, 31, (30, 9))
    validation = Validation(tiny.sequences.drop_last(1), users, tiny.sequences.items[last], negatives)
    before = tiny.model.f_item[0].weight
    kept = {}
    for warm in (True, False):
        model = copy.deepcopy(tiny.model)
        train(
            model, tiny.sequences.drop_last(1), validation, Model(**tiny.config["model"]), loop,
            tmp_path / str(warm), warm=warm,
        )  # fmt: skip
        kept[warm] = model.f_item[0].weight
        assert ("what the heads start from: 50 of 50 samples" in capsys.readouterr().out) is not warm
    torch.testing.assert_close(kept[True], before)
    assert not torch.allclose(kept[False], before)


def test_sasrec_trains_on_from_the_model_that_it_is_given(tmp_path: Path) -> None:
    """With steps of no size, it ends as it began."""
    from tests.training.test_next_item import ITEMS as COUNT
    from tests.training.test_next_item import routes

    cold, _ = train_sasrec(*routes(), COUNT, settings(epochs=3), tmp_path / "cold")
    weights = {name: tensor.clone() for name, tensor in cold.state_dict().items()}
    model, curve = train_sasrec(*routes(), COUNT, settings(epochs=1, lr=1e-30), tmp_path / "warm", first=cold)
    assert len(curve) == 1
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])


def test_rows_are_read_of_a_catalogue_that_polars_wrote(begin: start.Start) -> None:
    assert pl.read_parquet(begin.folder / start.ITEMS).columns == ["item_id", "parent_asin"]
