"""A sequential recommender by itself: one tower, no language model, and one line for what it cannot do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmsrec import params
from llmsrec.drift import figures, reference
from llmsrec.errors import DataError, ParamsError, RequestError
from llmsrec.files import read_json, write_json
from llmsrec.registry import start, tracking
from llmsrec.scoring.histories import of_file
from llmsrec.scoring.score import Wanted, score
from llmsrec.serving.bundle import Bundle, seal, verify
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse, parse_rank, parse_similar

DAY, START = 86_400_000, 1_391_040_000_000  # ms
LIMITS = params.load(Path(__file__).parents[2] / "params.yaml").drift
ITSELF = "this model is gru4rec by itself and has no tower but 'teacher'; ask for that, or name none"


@pytest.fixture(scope="module")
def recommender(alone: Any) -> Recommender:
    return Recommender.load(alone.bundle)


def request(items: list[int], **more: Any) -> dict[str, Any]:
    events = [{"parent_asin": f"B{item}", "timestamp": START + day * DAY} for day, item in enumerate(items)]
    return {"history": events, **more}


def test_answers_equal_offline_scoring(tiny: Any, alone: Any, recommender: Recommender) -> None:
    users = np.arange(1, 41)
    vectors, items = alone.model.user_vectors(tiny.sequences)[users], alone.model.item_vectors().detach()[1:]
    histories = [tiny.sequences.of(user)[0].tolist() for user in users]
    answers = recommender.recommend(parse([request(items, k=10) for items in histories]))
    for history, scores, answer in zip(histories, (vectors @ items.T).numpy(), answers, strict=True):
        scores[np.array(history) - 1] = -np.inf
        best = np.argsort(-scores, kind="stable")[:10]
        assert [item.parent_asin for item in answer.items] == [f"B{index + 1}" for index in best]
        np.testing.assert_allclose([item.score for item in answer.items], scores[best], rtol=1e-4, atol=1e-4)


def test_a_request_that_names_no_tower_gets_the_bundles_first(tiny: Any, recommender: Recommender) -> None:
    for sent in (request([3, 8, 1], k=5, explain=True), request([3], k=5, diversity=0.5), request([], k=5)):
        own, named = recommender.recommend(parse([sent, sent | {"tower": "teacher"}]))
        assert own == named and len(own.items) == 5
    of_llm = Recommender.load(tiny.bundle)
    own, named = of_llm.recommend(parse([request([3, 8, 1], k=5), request([3, 8, 1], k=5, tower="llm")]))
    assert [item.parent_asin for item in own.items] == [item.parent_asin for item in named.items]
    (ranked,) = recommender.recommend([parse_rank(request([3], candidates=["B9", "B4"]))])
    assert {item.parent_asin for item in ranked.items} == {"B9", "B4"}


@pytest.mark.parametrize("tower", ["llm", "cf"])
def test_a_tower_that_it_does_not_have_is_named_with_those_that_it_has(recommender: Recommender, tower: str) -> None:
    with pytest.raises(RequestError, match=f"request 1, `tower` is '{tower}', but {ITSELF}"):
        recommender.recommend(parse([request([3]), request([3], tower=tower)]))


def test_items_are_alike_by_its_own_vectors_and_titles_are_refused(alone: Any, recommender: Recommender) -> None:
    items = alone.model.item_vectors().detach().numpy()[1:]
    directions = items / np.linalg.norm(items, axis=1, keepdims=True)
    cosines = directions @ directions[6]
    cosines[6] = -np.inf
    actual = recommender.similar(parse_similar({"parent_asin": "B7", "k": 4})).items
    assert [item.parent_asin for item in actual] == [f"B{index + 1}" for index in np.argsort(-cosines)[:4]]
    with pytest.raises(RequestError, match='is "Rose water", but this model is gru4rec by itself, which reads'):
        recommender.similar(parse_similar({"title": "Rose water"}))


LOADED = """
import json, sys
from pathlib import Path
folder, request = Path(sys.argv[1]), json.loads(sys.argv[2])
sys.path.insert(0, str(folder / "code"))
from llmsrec.serving import schema
from llmsrec.serving.recommender import Recommender
recommender = Recommender.load(folder)
recommender.warm()
(answer,) = recommender.recommend(schema.parse([request]))
print(answer.model_dump_json())
print(json.dumps(sorted({"torch", "transformers", "peft", "mlflow"} & {*sys.modules})))
"""


def test_its_own_code_answers_without_torch(alone: Any, recommender: Recommender, tmp_path: Path) -> None:
    sent = request([3, 8, 1], k=5)
    command = [sys.executable, "-I", "-B", "-c", LOADED, str(alone.bundle), json.dumps(sent)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    (right,) = recommender.recommend(parse([sent]))
    assert [item["parent_asin"] for item in json.loads(said[0])["items"]] == [i.parent_asin for i in right.items]
    assert json.loads(said[1]) == []
    needed = {name.partition("==")[0] for name in tracking.requirements(read_json(alone.bundle / "config.json"))}
    assert {"mlflow", "onnxruntime"} <= needed and not {"torch", "transformers", "peft", "tokenizers"} & needed


def test_it_holds_no_more_than_it_needs(alone: Any) -> None:
    names = {path.name for path in alone.bundle.iterdir()}
    assert names == {
        "code", "config.json", "items.parquet", "manifest.json", "onnx", "parity.json", "vectors.safetensors",
    }  # fmt: skip
    assert [path.name for path in (alone.bundle / "onnx").iterdir()] == ["gru4rec.onnx"]
    assert read_json(alone.bundle / "config.json")["shapes"] == {"items": 30, "max_length": 6, "d": 17}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("towers", ["cf"], "`towers` is"),
        ("towers", [], "`towers` is"),
        ("shapes", {"items": 30}, "shapes.max_length"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(alone: Any, tmp_path: Path, key: str, value: Any, says: str) -> None:
    broken = Path(shutil.copytree(alone.bundle, tmp_path / "bundle"))
    write_json(broken / "config.json", read_json(broken / "config.json") | {key: value})
    seal(broken)
    with pytest.raises(DataError, match=says):
        Bundle.open(broken)


def test_no_training_begins_from_it(alone: Any, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="is shop/1, which is gru4rec by itself"):
        start.extract(Bundle.open(alone.bundle), "shop/1", tmp_path)


def test_all_users_are_scored_by_its_own_tower(tiny: Any, alone: Any, tmp_path: Path) -> None:
    events = pl.read_parquet(tiny.folder / "data/filtered/interactions.parquet")
    sent = events.select(
        pl.col("user_id").cast(pl.String), pl.format("B{}", "item_id").alias("parent_asin"), "timestamp"
    )
    sent.write_parquet(tmp_path / "histories.parquet")
    bundle, source = Bundle.open(alone.bundle), of_file(tmp_path / "histories.parquet")
    score(bundle, "shop/1", source, tmp_path / "out.parquet", Wanted(bundle.towers[0], 3))
    assert pl.read_parquet(tmp_path / "out.parquet")["tower"].unique().to_list() == ["teacher"]
    with pytest.raises(RequestError, match=f"--tower is 'llm', but {ITSELF}"):
        score(bundle, "shop/1", source, tmp_path / "out.parquet", Wanted("llm", 3))


def test_drift_is_measured_by_its_own_scores(tiny: Any, alone: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(alone.bundle, tmp_path / "bundle"))
    assert reference.add(folder, tiny.sequences) == verify(folder)
    known = reference.read(Bundle.open(folder))
    measured = {name for name in known.columns if known[name].drop_nulls().len()}
    assert measured == {"length", "unknown", "bins", "entropy_teacher"}
    assert known["entropy_teacher"].is_between(0, 1).all()
    of_chance = figures.compare(known, known.sample(fraction=1, with_replacement=True, seed=0), LIMITS)
    assert [figure.name for figure in of_chance] == ["popularity", "unknown", "length", "entropy_teacher"]
    before = known.drop("entropy_teacher")  # as references of LLM-SRec were
    assert len(figures.compare(before, before, LIMITS)) == 3
