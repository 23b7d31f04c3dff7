"""New items by title in a real registry: what the version holds, says of itself, answers and is judged by."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from llmsrec import cli
from llmsrec.drift import reference
from llmsrec.errors import DataError
from llmsrec.export import extended as extending
from llmsrec.files import read_json, tree
from llmsrec.promotion import aliases, evidence
from llmsrec.registry import start, tracking
from llmsrec.scoring import held_out
from llmsrec.serving.bundle import Bundle, seal, verify
from llmsrec.serving.llm_tower import LLMTower
from llmsrec.serving.on_torch import OnTorch
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import TOWERS, parse, parse_similar
from llmsrec.serving.towers import item_vectors
from tests.conftest import TEACHERS, make_tiny
from tests.items.conftest import NEW, Extended, write
from tests.registry import made
from tests.service.conftest import Store, request, serve
from tests.serving.test_nearest_title import nearest_by_sklearn

KEPT = ("onnx/f_", "backbone/", "weights.safetensors", "reference.parquet")
ADDED = pl.DataFrame(NEW[:1]).with_columns(store=pl.lit(None, pl.String), categories=pl.lit([], pl.List(pl.String)))


@pytest.fixture
def repository(extended: Extended, monkeypatch: pytest.MonkeyPatch) -> Extended:
    monkeypatch.setenv("DVC_ROOT", str(extended.root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return extended


@pytest.fixture(scope="module")
def longer(extended: Extended) -> Bundle:
    return extended.bundle(2)


def test_the_new_version_has_the_old_one_byte_by_byte_and_the_items_behind_its_own(
    extended: Extended, longer: Bundle
) -> None:
    before = extended.bundle(1)
    files, others = tree(before.folder), tree(longer.folder, bytecode=True)
    assert {name: others[name] for name in files if name.startswith(KEPT)} == {
        name: digest for name, digest in files.items() if name.startswith(KEPT)
    }
    for name, tensor in before.tensors.items():
        np.testing.assert_array_equal(longer.tensors[name][: len(tensor)], tensor)
    assert (len(longer.items), longer.trained, len(longer.tensors["item_vectors"])) == (33, 30, 34)
    assert longer.items.head(30).equals(before.items)
    assert longer.items.tail(3).rows() == [
        (31, "N1", "Bottle no 7 of rose water", 0, None, []),
        (32, "N2", "Crate & jar of rose soap", 0, "Shop 9", ["Home"]),
        (33, "N3", "Bottle no 8 of water", 0, None, ["Home", "Shelf 1"]),
    ]
    assert longer.config["extends"] == {"version": "gated/1", "bundle_sha256": before.digest}
    assert read_json(longer.folder / "parity.json")["added"]["largest_difference"] <= 1e-4
    verify(longer.folder, running=True)


def test_a_new_items_vectors_are_made_with_the_embedding_of_the_item_whose_title_is_nearest(
    longer: Bundle, extended: Extended
) -> None:
    bundle = extended.bundle(1)
    tower, embeddings = LLMTower(bundle, OnTorch(bundle)), bundle.tensors["item_embeddings"]
    known = longer.items["title"][:30].to_list()
    for place, title in enumerate(longer.items["title"][30:], start=31):  # one by one
        stand_in = embeddings[nearest_by_sklearn(known, [title])]
        np.testing.assert_array_equal(longer.tensors["item_embeddings"][[place]], stand_in)
        vector = tower.of_titles([title], bundle.models["f_I"](stand_in))[0]
        np.testing.assert_allclose(vector, longer.tensors["item_vectors"][place], atol=1e-5)
    (first,) = Recommender(longer).similar(parse_similar({"title": "Crate & jar of rose soap", "k": 1})).items
    assert (first.parent_asin, round(first.score, 4)) == ("N2", 1.0), "a title is read as that of a new item"


def test_its_run_says_what_it_extends_and_no_alias_has_moved(extended: Extended, longer: Bundle) -> None:
    client = extended.client
    assert aliases.read(client, "gated") == {"staging": 1, "candidate": 1}
    version, parent = (client.get_model_version("gated", number) for number in ("2", "1"))
    run = client.get_run(version.run_id)
    assert run.info.run_name == "3 items added to gated/1" and run.info.status == "FINISHED"
    assert (run.data.tags["extends"], run.data.tags["extends.run_id"]) == ("gated/1", parent.run_id)
    assert version.tags["extends"] == "gated/1" and version.tags["bundle_sha256"] == longer.digest
    assert run.data.params == client.get_run(parent.run_id).data.params
    assert run.data.metrics["added/items"] == 3 and "added/llm/ndcg_10" in run.data.metrics
    place = mlflow.artifacts.download_artifacts(
        run_id=version.run_id, artifact_path="added/items.jsonl", tracking_uri=client.tracking_uri
    )
    assert [json.loads(line)["parent_asin"] for line in Path(place).read_text().splitlines()] == ["N1", "N2", "N3"]
    card = version.description
    assert "- all towers recommend them, and read them in histories" in card
    assert (
        "3 items added to gated/1 by their titles" in card and "30 items of the training, 3 that it never saw" in card
    )
    assert card.endswith("A card.")
    assert "gated version 2 has them" in extended.added and "llmsrec promote gated/2 --to staging" in extended.added


def test_the_same_again_is_the_same_version(repository: Extended, capsys: Any) -> None:
    assert cli.main(["items", "add", str(repository.root / "new.jsonl"), "--model", "gated/1"]) == 0
    assert "gated version 2 has them" in capsys.readouterr().out
    assert len(repository.client.search_model_versions("name = 'gated'")) == 2


@pytest.mark.parametrize("tower", TOWERS)
def test_each_tower_recommends_new_items_by_their_vectors(longer: Bundle, tower: str) -> None:
    recommender, everything = Recommender(longer), longer.items["parent_asin"].to_list()
    sent = request([3, 8], k=31, tower=tower)
    (answer,) = recommender.recommend(parse([sent]))
    assert {item.parent_asin for item in answer.items} == {*everything} - {"B3", "B8"}
    history = recommender.history(["B3", "B8"], [event["timestamp"] for event in sent["history"]])
    scores = item_vectors(longer, tower) @ recommender.tower(tower).vectors([history])[0]
    for item in answer.items:
        assert item.score == pytest.approx(scores[everything.index(item.parent_asin) + 1], abs=1e-5)


@pytest.mark.parametrize("tower", TOWERS)
def test_in_a_history_each_tower_reads_new_items(longer: Bundle, tower: str) -> None:
    recommender = Recommender(longer)
    events = request([3, 8])["history"] + [{"parent_asin": "N2", "timestamp": 1_500_000_000_000}]
    sent = {"history": events, "k": 5, "tower": tower}
    first, alone, without = recommender.recommend(
        parse([sent, {**sent, "history": events[2:]}, {**sent, "history": events[:2]}])
    )
    assert (first.used, first.unknown, alone.fallback) == (3, [], None)
    assert "N2" not in {item.parent_asin for item in first.items}, "nobody is shown what they have"
    assert without.items[0].score != pytest.approx(first.items[0].score, abs=1e-4), "it is read"
    (answer,) = recommender.recommend(parse([{**sent, "exclude_history": False, "allow": ["N2"]}]))
    assert [item.parent_asin for item in answer.items] == ["N2"]


@pytest.mark.parametrize("tower", TOWERS)
def test_users_who_have_or_want_added_items_can_be_asked_of_any_tower(longer: Bundle, tower: str) -> None:
    users = made.test_users_of(0).with_columns(
        history=pl.concat_list("history", pl.lit("N2")), timestamps=pl.concat_list("timestamps", pl.lit(10**12))
    )
    asked = held_out.rank(longer, users, tower)
    assert asked.unknown_events == 0 and asked.ranks["full"].max() < 33 - 6
    assert held_out.rank(longer, users.with_columns(target=pl.lit("N1")), tower).unknown_targets == 0


@pytest.mark.parametrize("system", [*TEACHERS])
def test_the_item_table_of_every_teacher_gets_longer(system: str, tmp_path: Path) -> None:
    """Its file reads a new item as the item whose embedding it has, and old ones as before."""
    before = Bundle.open(make_tiny(tmp_path, graph=False, teacher=system).bundle)
    extending.write(tmp_path / "longer", before, ADDED, "shop/1")
    after = Bundle.open(tmp_path / "longer")
    assert after.tensors["item_embeddings"].shape == (32, before.tensors["item_embeddings"].shape[1])
    (twin,) = nearest_by_sklearn(before.items["title"].to_list(), ADDED["title"].to_list())
    np.testing.assert_array_equal(after.tensors["item_embeddings"][31], before.tensors["item_embeddings"][twin])
    rows = np.random.default_rng(0).integers(0, 31, (16, 6))
    np.testing.assert_array_equal(after.models[system](rows), before.models[system](rows))
    new, old = np.array([[0, 0, 5, 31, 2, 31]]), np.array([[0, 0, 5, twin, 2, twin]])
    np.testing.assert_allclose(after.models[system](new), before.models[system](old), atol=1e-5)


def test_k_beyond_the_catalogue_is_one_line(longer: Bundle) -> None:
    with pytest.raises(Exception, match="`k` is 34, but the catalogue has 33 items"):
        Recommender(longer).recommend(parse([request([1], k=34, tower="teacher")]))


def test_a_version_whose_new_items_lack_embeddings_is_refused(longer: Bundle, tmp_path: Path) -> None:
    """As `items add` once wrote it: such a version answers with its own code alone."""
    shutil.copytree(longer.folder, tmp_path / "old", ignore=shutil.ignore_patterns("__pycache__"))
    save_file(
        longer.tensors | {"item_embeddings": longer.tensors["item_embeddings"][:31]},
        tmp_path / "old/vectors.safetensors",
    )
    seal(tmp_path / "old")
    with pytest.raises(DataError, match=r"`item_embeddings` is float32 of shape \(31, 16\), not float32 of .*34"):
        Bundle.open(tmp_path / "old")


def test_what_they_cost_is_each_users_ndcg_with_them_minus_without(extended: Extended, longer: Bundle) -> None:
    reports = Path(
        mlflow.artifacts.download_artifacts(
            run_id=extended.client.get_model_version("gated", "2").run_id,
            artifact_path="reports",
            tracking_uri=extended.client.tracking_uri,
        )
    )
    about, before, users = read_json(reports / "added.json"), extended.bundle(1), made.test_users_of(0)
    assert (about["items"], about["trained"], about["users"]) == (3, 30, 40)
    assert set(about["towers"]) == {*TOWERS}
    for tower in about["towers"]:
        with_them, without = (
            [0.0 if rank >= 10 else 1 / np.log2(rank + 2) for rank in held_out.rank(of, users, tower).ranks["full"]]
            for of in (longer, before)
        )
        assert about["towers"][tower]["difference"] == pytest.approx(np.mean(with_them) - np.mean(without), abs=1e-9)
        assert about["towers"][tower]["difference"] <= 0
    assert longer.as_trained().items.equals(before.items)


def test_the_gate_judges_it_as_any_other_and_refuses_what_costs_too_much(
    repository: Extended, capsys: Any, tmp_path: Path
) -> None:
    params = repository.root / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("    margin: 0.01 ", "    margin: 0.9 "))
    try:
        assert cli.main(["promote", "gated/2", "--to", "staging"]) == 0, capsys.readouterr().err
        shown = capsys.readouterr().out
        assert "the same training, so only what was added is compared" in shown
        assert "among 3 added items too, minus without" in shown and "whole and answering" in shown
        assert "bundle in which its added items were measured" in shown and "computed anew as those of" in shown
        params.write_text(text.replace("    margin: 0.01 ", "    margin: 0.0 "))
        assert cli.main(["promote", "gated/2", "--to", "staging"]) == 1
        assert "llm, among 3 added items too, minus without, lower bound" in capsys.readouterr().err
    finally:
        params.write_text(text)


def test_evidence_of_added_items_that_was_altered_is_refused(repository: Extended, tmp_path: Path) -> None:
    version = repository.client.get_model_version("gated", "2")
    location = repository.client.get_run(version.run_id).info.artifact_uri.removeprefix("file://")
    path = Path(location) / "reports/added.json"
    text = path.read_text()
    for altered in (text.replace('"items": 3', '"items": 2'), None):
        path.unlink()
        if altered:
            path.write_text(altered)
        with (
            tracking.existing(repository.root, "-") as client,
            pytest.raises(DataError, match="are not those that were logged"),
        ):
            evidence.evaluated(client, version, tmp_path / str(altered is None))
        path.write_text(text)


def test_more_items_can_be_added_and_the_cost_is_that_of_all(repository: Extended, capsys: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "more.jsonl", [{"parent_asin": "M1", "title": "Bottle no 9"}])
    assert cli.main(["items", "add", str(file), "--model", "gated/2"]) == 0
    assert "gated version 3 has them" in capsys.readouterr().out
    longest = repository.bundle(3)
    assert (len(longest.items), longest.trained, longest.config["extends"]["version"]) == (34, 30, "gated/2")
    card = repository.client.get_model_version("gated", "3").description
    assert "30 items of the training, 4 that it never saw" in card and card.count("# gated version 3") == 1
    with pytest.raises(DataError, match='`parent_asin` is "N1", which the version\'s catalogue has already'):
        from llmsrec.items import lines

        lines.read(repository.root / "new.jsonl", longest.items["parent_asin"])


def test_promoting_over_a_longer_catalogue_says_what_is_dropped_and_how_to_add_it_again(
    repository: Extended, capsys: Any
) -> None:
    """Version 1, which lacks what 2 has by title, is judged against it; the command that is named adds it again."""
    repository.client.set_registered_model_alias("gated", "staging", "2")
    try:
        assert cli.main(["promote", "gated/1", "--to", "staging"]) in (0, 1)
    finally:
        repository.client.set_registered_model_alias("gated", "staging", "1")
    shown = capsys.readouterr().out.splitlines()
    line = next(line for line in shown if "items added by title to version 2 in staging that it does not have" in line)
    assert line.startswith("  !!") and " 3; a version with them: " in line
    command = line.partition("llmsrec ")[2].split()
    assert command == ["items", "add", "--from", "gated/2", "--model", "gated/1"]
    assert cli.main(command) == 0
    assert "gated version 2 has them" in capsys.readouterr().out, "byte by byte the version that has them already"
    assert cli.main(["items", "add", "--from", "gated/2", "--model", "gated/2"]) == 1
    assert "gated/2 has all items that were added to gated/2." in capsys.readouterr().err


def test_a_training_begins_from_what_was_trained_alone(longer: Bundle, tmp_path: Path) -> None:
    start.extract(longer, "gated/2", tmp_path)
    assert pl.read_parquet(tmp_path / "items.parquet")["parent_asin"].to_list() == [f"B{n}" for n in range(1, 31)]


def test_to_drift_an_added_item_is_one_that_training_did_not_have(longer: Bundle, extended: Extended) -> None:
    rows = []
    for bundle in (extended.bundle(1), longer):
        history = Recommender(bundle.as_trained()).history(["B1", "B2", "N1"], [1, 2, 3])
        rows.append(reference.measure(bundle, [history], ["cf", "llm"]))
    assert [row["unknown"].item() for row in rows] == [1, 1]
    np.testing.assert_allclose(rows[0]["entropy_llm"], rows[1]["entropy_llm"], rtol=1e-6)


def test_a_service_answers_with_them_over_http(extended: Extended, longer: Bundle, tmp_path: Path) -> None:
    running = serve(Store(extended.root, extended.client), tmp_path, "--drain", "0.1", model="models:/gated/2")
    try:
        running.ready(2)
        inputs = [request([3, 8], k=31, tower="cf"), request([3, 8], k=31, tower="llm")]
        status, body, _ = running.ask({"inputs": inputs})
        assert status == 200
        for answer in body["predictions"]:
            assert {"N1", "N2", "N3"} < {item["parent_asin"] for item in answer["items"]}
        assert running.ask({"parent_asin": "N1", "k": 1}, "/similar")[1]["items"][0]["parent_asin"] == "B7"
    finally:
        assert running.end() == 0


def test_with_the_teachers_user_vector_in_the_prompt_they_are_read_in_a_history_too(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path, graph=False, user_representation=True)
    extending.write(tmp_path / "longer", Bundle.open(tiny.bundle), ADDED, "shop/1")
    events = request([3])["history"] + [{"parent_asin": "N1", "timestamp": 1_500_000_000_000}]
    (answer,) = Recommender.load(tmp_path / "longer").recommend(parse([{"history": events, "tower": "llm"}]))
    assert (answer.used, answer.unknown) == (2, [])


def test_another_backbone_than_that_of_the_training_adds_nothing(tiny: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(tiny.bundle, tmp_path / "other", ignore=shutil.ignore_patterns("__pycache__")))
    weights = load_file(other / "backbone/model.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in weights.items()}, other / "backbone/model.safetensors")
    seal(other)
    with pytest.raises(DataError, match=r"vectors that differ by .* see that it is the backbone of the training"):
        extending.write(tmp_path / "longer", Bundle.open(other), ADDED, "shop/1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]
