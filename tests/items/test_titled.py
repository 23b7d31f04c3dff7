"""New items of a teacher that knows titles: one with a known item's title is that item to all towers."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmsrec.drift import command as drift
from llmsrec.errors import DataError
from llmsrec.export import onnx
from llmsrec.models.text import item_vectors
from llmsrec.registry import start
from llmsrec.serving.bundle import Bundle, seal
from llmsrec.serving.llm_tower import LLMTower
from llmsrec.serving.on_torch import OnTorch
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import TOWERS, parse, parse_similar
from llmsrec.serving.towers import item_vectors as vectors_of
from tests.conftest import make_tiny
from tests.items.conftest import Extended

TWIN = 7  # N1 has its title


@pytest.fixture(scope="module")
def longer(titled: Extended) -> Bundle:
    return titled.bundle(2)


def test_its_vectors_are_those_of_the_item_with_its_title(longer: Bundle) -> None:
    assert (len(longer.items), longer.trained) == (33, 30)
    for name in ("item_embeddings", "item_vectors"):
        np.testing.assert_allclose(longer.tensors[name][31], longer.tensors[name][TWIN], atol=1e-5)
        assert not np.allclose(longer.tensors[name][32], longer.tensors[name][TWIN], atol=1e-2)


@pytest.mark.parametrize("tower", TOWERS)
def test_each_tower_reads_it_in_a_history_and_recommends_it_as_the_item_with_its_title(
    longer: Bundle, tower: str
) -> None:
    recommender, times = Recommender(longer), [10**12, 2 * 10**12]
    new, old = (recommender.history(["B3", item], times) for item in ("N1", f"B{TWIN}"))
    assert new.items.tolist() == [3, 31] and not new.unknown
    of_new, of_old = (recommender.tower(tower).vectors([history])[0] for history in (new, old))
    np.testing.assert_allclose(of_new, of_old, atol=1e-4)
    scores = vectors_of(longer, tower) @ of_old
    assert scores[31] == pytest.approx(scores[TWIN], abs=1e-4)
    request = {"history": [{"parent_asin": "B3", "timestamp": 10**12}], "k": 32, "tower": tower}
    (answer,) = recommender.recommend(parse([request]))
    assert {"N1", "N2", "N3"} < {item.parent_asin for item in answer.items}


def test_known_items_are_read_as_before(titled: Extended, longer: Bundle) -> None:
    before = titled.bundle(1)
    rows = np.random.default_rng(0).integers(0, 31, (16, 6))
    np.testing.assert_array_equal(longer.models["sasrec"](rows), before.models["sasrec"](rows))
    for name in ("item_embeddings", "item_vectors"):
        np.testing.assert_array_equal(longer.tensors[name][:31], before.tensors[name])


def test_a_title_alone_is_read_in_the_same_way(titled: Extended, longer: Bundle) -> None:
    tower = LLMTower(titled.bundle(1), OnTorch(titled.bundle(1)))
    np.testing.assert_allclose(
        tower.of_titles([longer.items["title"][31]])[0], longer.tensors["item_vectors"][32], atol=1e-5
    )
    (first,) = Recommender(longer).similar(parse_similar({"title": "Crate & jar of rose soap", "k": 1})).items
    assert (first.parent_asin, round(first.score, 4)) == ("N2", 1.0)


def test_what_they_cost_the_teacher_is_measured_too(titled: Extended) -> None:
    assert "teacher: NDCG@10 of 40 test users among all 33 items" in titled.added


def test_to_drift_and_to_a_training_that_begins_from_it_they_are_new(longer: Bundle, tmp_path) -> None:
    (tmp_path / "log.jsonl").write_text(
        '{"time": 1764000000000, "tower": "cf", "history": [{"parent_asin": "B1", "timestamp": 1500000000000}, '
        '{"parent_asin": "N1", "timestamp": 1600000000000}]}\n'
    )
    (history,) = drift._histories(longer, tmp_path / "log.jsonl", None)
    assert (history.items.tolist(), history.unknown) == ([1], ["N1"])
    start.extract(longer, "gated/2", tmp_path)
    assert start.start.read(tmp_path)._tensors("teacher.safetensors")["item.weight"].shape == (31, 16)


def test_where_the_backbone_was_fine_tuned_titles_are_left_out(tmp_path) -> None:
    tiny = make_tiny(tmp_path, lora_rank=2, titled=True, graph=False)
    assert item_vectors.load(tmp_path / "models/sasrec") and not Bundle.open(tiny.bundle).reads_titles


def test_half_of_what_makes_vectors_of_titles_is_refused(titled: Extended, tmp_path) -> None:
    import shutil

    shutil.copytree(titled.bundle(1).folder, tmp_path / "bundle")
    tensors = {name: rows for name, rows in titled.bundle(1).tensors.items() if name != "title_bias"}
    save_file(tensors, tmp_path / "bundle/vectors.safetensors")
    seal(tmp_path / "bundle")
    with pytest.raises(DataError, match="`title_bias` is missing, not float32 of shape"):
        Bundle.open(tmp_path / "bundle")


def test_a_file_without_the_table_gets_no_longer_one(titled: Extended) -> None:
    before = titled.bundle(1)
    table = before.tensors["item_embeddings"]
    with pytest.raises(DataError, match=r"f_I\.onnx of the bundle holds its item table 0 times, not once"):
        onnx.replace(before.folder / "onnx/f_I.onnx", table, table)
