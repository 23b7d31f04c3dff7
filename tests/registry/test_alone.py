"""A compared system by itself in a real registry: registered into its run, judged, and refused what it cannot do."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.errors import DataError
from llmsrec.evaluation import alone as evaluated
from llmsrec.evaluation import report
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.files import read_json, write_json
from llmsrec.promotion import actions
from llmsrec.registry import alone as versions
from llmsrec.registry import evaluate, record, tracking
from llmsrec.scoring.held_out_data import HeldOutData
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse
from tests.answers import assert_same_answer
from tests.registry import made
from tests.registry.made import quick_smoke, register_gated, with_registry, write_outs
from tests.servers import mlflow_models_serve, post

USERS = 40
PARAMS = {"data.category": "Sample", "data.source": "sample", "gru4rec.dim": 16, "split.shuffle_train": False}


@dataclass(frozen=True)
class Shop:
    """Version 1 of `gated` is GRU4Rec by itself."""

    root: Path
    client: MlflowClient
    run_id: str
    data: Path
    outs: versions.Outs

    def register(self, run_id: str, outs: versions.Outs) -> int:
        with tracking.connected(self.root) as client:
            return versions.register(client, run_id, "gru4rec", "gated", self.data, outs)


@pytest.fixture(scope="module")
def shop(tiny: Any, alone: Any, registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root, left = with_registry(tmp_path_factory.mktemp("shop"), registry), tmp_path_factory.mktemp("outs")
    write_outs(left, tiny)
    drawn = np.random.default_rng(0).integers(0, 8, USERS).astype(np.int32)
    ranks: report.Ranks = {
        "gru4rec": {
            split: {protocol: drawn + lost for protocol in ("full", "uni99")}
            for split, lost in (("valid", 0), ("test", 0), ("test_shuffled", 15))
        }
    }
    report.write_ranks(left / "logged/ranks.parquet", ranks)
    shutil.copy(left / "reports/slices.parquet", left / "logged")
    groups = {"warm": np.arange(USERS) % 3 == 0, "cold": np.zeros(USERS, dtype=bool)}
    of_llm = read_json(left / "reports/comparison.json")
    comparison = evaluated.comparison(
        evaluated.read(left / "logged/ranks.parquet"), groups, Bootstrap(200, 5), "gru4rec"
    ) | {key: of_llm[key] for key in ("data", "negatives", "paired_by")}
    write_json(left / "evidence/comparison.json", comparison)
    for name in ("checks.json", "test_users.parquet"):
        shutil.copy(left / "reports" / name, left / "evidence")
    evaluation = report.evaluation(ranks, groups, {})
    entry = record.Record(
        digest="gru4rec" * 9,
        name="GRU4Rec, retrieval on Sample",
        params=PARAMS,
        evaluation=evaluation,
        curve=[],
        tags={record.SYSTEM: "gru4rec", record.FORM: "retrieval"},
        files={"reports": [left / "logged/ranks.parquet", left / "logged/slices.parquet"]},
        model="gru4rec",
    )
    with tracking.connected(root) as client:
        run_id = tracking.ensure_run(client, tracking.experiment(client, "llm-srec", root), entry)
    outs = versions.Outs(alone.bundle, left / "evidence", evaluation, [{"step": 1}, {"step": 2}])
    created = Shop(root, MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db"), run_id, left / "data", outs)
    assert created.register(run_id, outs) == 1
    return created


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    monkeypatch.setattr(actions, "smoke", quick_smoke)
    monkeypatch.setenv("DVC_ROOT", str(shop.root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_it_names_its_system_and_moves_no_alias(shop: Shop) -> None:
    version, run = shop.client.get_model_version("gated", "1"), shop.client.get_run(shop.run_id)
    assert (version.run_id, version.tags["system"], version.tags["data.category"]) == (shop.run_id, "gru4rec", "Sample")
    assert version.description.partition("\n")[0].endswith("GRU4Rec by itself")
    assert "GRU4Rec: dim 16" in version.description and "tower llm" not in version.description
    assert shop.client.get_registered_model("gated").aliases == {}
    assert run.data.tags["checks.passed"] == "true" and record.SEALED in run.data.tags


def test_registered_again_it_is_found_and_its_evidence_stays(shop: Shop, tmp_path: Path) -> None:
    sealed = shop.client.get_run(shop.run_id).data.tags[record.SEALED]
    other = Path(shutil.copytree(shop.outs.reports, tmp_path / "evidence"))
    write_json(other / "checks.json", read_json(other / "checks.json") | {"passed": False})
    outs = versions.Outs(shop.outs.bundle, other, shop.outs.evaluation, shop.outs.curve)
    assert shop.register(shop.run_id, outs) == 1
    assert shop.client.get_run(shop.run_id).data.tags[record.SEALED] == sealed
    assert actions.review(shop.root, "1", "staging", settle=False).failures() == []  # type: ignore[union-attr]


def test_a_run_that_is_gone_is_one_line(shop: Shop) -> None:
    with pytest.raises(DataError, match=r"the run 0{32} of gru4rec is not in the registry at .*log@gru4rec-retrieval"):
        shop.register("0" * 32, shop.outs)


def test_it_stands_in_staging_and_llm_srec_is_judged_against_it(
    tiny: Any, shop: Shop, tmp_path: Path, capsys: Any
) -> None:
    first = actions.review(shop.root, "1", "staging", settle=False)
    assert isinstance(first, actions.Verdict)
    actions.promote(shop.root, first)
    with tracking.connected(shop.root) as client:
        for number, new in ((2, 0), (3, 3)):
            register_gated(client, shop.root, tmp_path / str(number), tiny, number, better=2, order=True, new=new)
    for wanted, asked in (("2", "NDCG@10 full minus that of version 1 in staging"), ("3", "tested on other data, so")):
        actual = actions.review(shop.root, wanted, "staging", settle=False)
        assert isinstance(actual, actions.Verdict)
        (quality,) = [rule for rule in actual.rules if rule.name == "quality"]
        assert any(asked in str(figure) for figure in quality.figures)
    assert cli.main(["items", "add", str(tmp_path / "new.jsonl"), "--model", "gated@staging"]) == 1
    assert "gated/1 is gru4rec by itself, which reads no titles" in capsys.readouterr().err


def test_it_is_evaluated_by_the_tower_that_it_has(shop: Shop) -> None:
    users = made.test_users_of(0)
    data = HeldOutData(shop.data, users, "f" * 64, "d" * 64)
    measured = evaluate.measure("gated/1", Bundle.open(shop.outs.bundle), data, Bootstrap(50, 0))
    assert [*measured.scores] == ["teacher"]


def test_mlflow_models_serve_answers_as_its_bundle_does(shop: Shop, tmp_path: Path) -> None:
    history = [{"parent_asin": f"B{n}", "timestamp": 1_391_040_000_000 + n} for n in (3, 8, 1)]
    inputs = [{"history": history, "k": 5}, {"history": history, "k": 5, "tower": "teacher"}, {"history": [], "k": 2}]
    with mlflow_models_serve(f"sqlite:///{shop.root}/mlruns/mlflow.db", "models:/gated/1", tmp_path / "log") as address:
        status, body = post(f"{address}/invocations", {"inputs": inputs})
        refused, said = post(f"{address}/invocations", {"inputs": [inputs[0] | {"tower": "llm"}]})
    assert status == 200
    for actual, answer in zip(
        body["predictions"], Recommender.load(shop.outs.bundle).recommend(parse(inputs)), strict=True
    ):
        assert_same_answer(actual, answer.model_dump())
    assert refused == 400 and "this model is gru4rec by itself and has no tower but 'teacher'" in said["message"]
