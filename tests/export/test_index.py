"""A bundle whose items are searched by an index, from its export to its answers and the gate."""

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmsrec.errors import DataError
from llmsrec.export import bundle, extended
from llmsrec.files import read_json
from llmsrec.registry import record, tracking
from llmsrec.scoring import held_out
from llmsrec.serving import contents, index
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import TOWERS, parse
from llmsrec.serving.towers import ITEMS
from tests.answers import assert_same_answer
from tests.registry import made

START, DAY = 1_391_040_000_000, 86_400_000  # ms


@pytest.fixture(scope="module")
def indexed(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("indexed") / "bundle"
    bundle.write(
        folder, tiny.model, tiny.config, tiny.catalogue, tiny.folder / "models/backbone", tiny.sequences, 40, 1e-4,
        index_above=29,
    )  # fmt: skip
    return Bundle.open(folder)


def asked(tower: str, **options: Any) -> dict[str, Any]:
    events = [{"parent_asin": f"B{item}", "timestamp": START + item * DAY} for item in (5, 7, 12)]
    return {"history": events, "k": 4, "tower": tower, **options}


def test_what_the_index_finds_is_written_down(tiny: Any, indexed: Bundle) -> None:
    measured = read_json(indexed.folder / "parity.json")["index"]
    assert {tower: (about["users"], about["cells"]) for tower, about in measured.items()} == dict.fromkeys(
        ITEMS, (20, 11)
    )
    assert all(about["recall_10"] >= 0.9 and 1 <= about["read"] <= 11 for about in measured.values())
    assert sorted(path.name for path in (indexed.folder / "index").iterdir()) == [
        "item_embeddings.faiss", "item_vectors.faiss",
    ]  # fmt: skip
    assert any(name.startswith("faiss-cpu==") for name in tracking.requirements(indexed.config))
    assert record.metrics(record.searched({"llm_srec": {}}, {"index": measured}))["index/cf/recall_10"] >= 0.9
    exact = Bundle.open(tiny.bundle)
    assert "index" not in exact.config and not (exact.folder / "index").exists()
    assert not any(name.startswith("faiss") for name in tracking.requirements(exact.config))
    assert record.searched({"llm_srec": {}}, read_json(exact.folder / "parity.json")) == {"llm_srec": {}}


@pytest.mark.parametrize("tower", TOWERS)
def test_answers_are_those_of_scoring_all_items(tiny: Any, indexed: Bundle, tower: str) -> None:
    ours, exact = Recommender(indexed), Recommender.load(tiny.bundle)
    for search in (ours._searches[tower] for tower in ITEMS):
        assert isinstance(search, index.Index)
        search.cells.nprobe = search.cells.nlist  # all cells, so that nothing is left to chance
    options = [{}, {"exclude_history": False}, {"block": ["B3", "B4", "B8"]}, {"allow": ["B1", "B2", "B5"]}]
    options += [{"filter": {"store": ["Shop 1"]}}, {"diversity": 0.5, "explain": True}, {"k": 29}, {"history": []}]
    for changed in options:
        request = parse([asked(tower, **changed)])
        (answer,), (expected,) = ours.recommend(request), exact.recommend(request)
        assert_same_answer(answer.model_dump(), expected.model_dump())


def test_recall_is_measured_where_a_version_is_asked_about_users(tiny: Any, indexed: Bundle) -> None:
    actual = held_out.rank(indexed, made.test_users_of(0), "cf")
    assert actual.recall is not None and actual.recall >= 0.9
    assert held_out.rank(Bundle.open(tiny.bundle), made.test_users_of(0), "cf").recall is None
    assert held_out.rank(indexed.as_trained(), made.test_users_of(0), "cf").recall is None


def test_items_are_added_to_an_index(indexed: Bundle, tmp_path: Path) -> None:
    schema = {"parent_asin": pl.String, "title": pl.String, "store": pl.String, "categories": pl.List(pl.String)}
    rows = [("N1", "Bottle no 7 of rose water", None, []), ("N2", "Crate of soap", "Shop 9", [])]
    extended.write(tmp_path / "longer", indexed, pl.DataFrame(rows, schema=schema, orient="row"), "shop/1")
    longer = Bundle.open(tmp_path / "longer")
    recommender = Recommender(longer)
    (answer,) = recommender.recommend(parse([asked("cf", allow=["N1", "N2"], k=2)]))
    assert {item.parent_asin for item in answer.items} == {"N1", "N2"}
    assert (len(longer.items), recommender._searches["cf"].cells.ntotal) == (32, 32)  # type: ignore[attr-defined]
    assert recommender._searches["teacher"].cells.ntotal == 32  # type: ignore[attr-defined]


def test_an_index_that_config_does_not_name_rightly_is_refused(indexed: Bundle) -> None:
    for names, message in (
        ("item_vectors", '`index` is "item_vectors", not some of'),
        (["x"], r"`index` is \[\"x\"\]"),
    ):
        changed = dataclasses.replace(indexed, config=indexed.config | {"index": names})
        with pytest.raises(DataError, match=message):
            contents.check(changed)
