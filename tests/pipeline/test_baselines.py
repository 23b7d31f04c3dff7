"""`dvc repro baselines/dvc.yaml` for a system of each form: trained, ranked, logged, shown beside LLM-SRec."""

import json
import os
import subprocess
import sys
import urllib.request
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest

from llmsrec.registry import tracking
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse
from tests.params_file import set_params
from tests.servers import free_port, until_up

BOTH = ("gru4rec-retrieval", "tallrec-titles")
TARGETS = [f"baselines/dvc.yaml:log@{name}" for name in BOTH]
MAIN = "import sys; from llmsrec.cli import main; sys.exit(main())"
STEPS = ("train", "rank", "log")


@pytest.fixture(scope="module")
def first(clone: Any, built: str) -> str:
    clone.run("git", "checkout", "-q", "params.yaml")
    set_params(clone.folder / "params.yaml", {"model.uniform": False})  # so LLM-SRec is not as params.yaml says
    set_params(clone.folder / "systems/gru4rec.yaml", {"epochs": 2, "dim": 16, "hidden": 16})
    set_params(clone.folder / "systems/tallrec.yaml", {"titles.train.epochs": 1})
    return clone.run("dvc", "repro", *TARGETS)


def runs(clone: Any) -> dict[str, Any]:
    """System -> its newest MLflow run."""
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{clone.folder}/mlruns/mlflow.db")
    logged = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {run.data.tags["system"]: run for run in reversed(logged) if "system" in run.data.tags}


def test_each_is_trained_ranked_and_logged(clone: Any, first: str) -> None:
    ran = [name.removeprefix("baselines/dvc.yaml:") for name in clone.stages_run(first)]
    assert {f"{step}@{name}" for step in STEPS for name in BOTH} <= {*ran}
    assert not {"llm_srec", "evaluate"} & {*ran}, "LLM-SRec is not trained for it"
    users = pl.read_parquet(clone.folder / "data/split/test.parquet").height
    for name, model, protocols in (
        (BOTH[0], "gru4rec", {"full", "uni99"}),
        (BOTH[1], "tallrec", {"uni19_likelihood", "uni19_mean_likelihood", "uni19_generated"}),
    ):
        ranks = pl.read_parquet(clone.folder / f"reports/ranks/{name}.parquet").filter(model=model)
        assert {*ranks["protocol"]} == protocols and {*ranks["split"]} == {"valid", "test", "test_shuffled"}
        assert ranks.group_by("split", "protocol").len()["len"].unique().to_list() == [users]
    sasrec = pl.read_parquet(clone.folder / "reports/ranks/tallrec-titles.parquet").filter(model="sasrec")
    assert {*sasrec["protocol"]} == {"uni19"}


def test_runs_compare_without_preparation(clone: Any, first: str) -> None:
    actual = runs(clone)
    assert {*actual} == {"gru4rec", "tallrec"}
    gru4rec = actual["gru4rec"].data
    written = json.loads((clone.folder / "reports/ranks/gru4rec-retrieval.json").read_text())
    assert gru4rec.metrics["test/full/ndcg_10"] == pytest.approx(written["gru4rec"]["test"]["full"]["ndcg_10"])
    assert gru4rec.params["gru4rec.hidden"] == "16" and gru4rec.params["split.negatives"] == "20"
    assert not any(key.startswith(("model.", "train.")) for key in gru4rec.params), "it reads neither"
    assert gru4rec.metrics["time/train_s"] > 0
    titles = actual["tallrec"].data
    assert 0 <= titles.metrics["test/uni19_generated/hr_1"] <= titles.metrics["test/uni19_generated/valid_ratio"] <= 1
    assert "model.d_prime" in titles.params


def test_an_edit_of_one_runs_that_one(clone: Any, first: str) -> None:
    assert clone.stages_run(clone.run("dvc", "repro", *TARGETS)) == []
    set_params(clone.folder / "systems/gru4rec.yaml", {"dropout": 0.4})
    again = clone.stages_run(clone.run("dvc", "repro", *TARGETS))
    assert again == [f"baselines/dvc.yaml:{step}@gru4rec-retrieval" for step in STEPS]


def test_they_stand_beside_llm_srec(clone: Any, first: str) -> None:
    set_params(clone.folder / "params.yaml", {"model.uniform": True})
    assert clone.stages_run(clone.run("dvc", "repro")) == []
    said = clone.run("llmsrec", "summary", "--all")
    lines = [line for line in said.splitlines() if line.lstrip().startswith(("GRU4Rec", "TALLRec"))]
    assert len(lines) == 2 and "not ranked yet: bert4rec-retrieval" in said
    said = clone.run("llmsrec", "compare", runs(clone)["gru4rec"].info.run_id, "candidate", "--no-latency")
    assert "paired  yes" in said and "full NDCG@10" in said
    refused = clone.run(
        "llmsrec", "compare", runs(clone)["tallrec"].info.run_id, "candidate", "--no-latency", fails=True
    )
    assert "different protocols" in refused


def test_one_by_itself_is_registered_and_served(clone: Any, first: str, tmp_path: Path) -> None:
    clone.run("dvc", "repro", "alone/dvc.yaml:register@gru4rec")
    made = json.loads((clone.folder / "metrics/systems/gru4rec-registered.json").read_text())
    assert made["run_id"] == runs(clone)["gru4rec"].info.run_id
    assert clone.stages_run(clone.run("dvc", "repro", "alone/dvc.yaml:register@gru4rec")) == []
    named, port = f"models:/{made['name']}/{made['version']}", free_port()
    environment = os.environ | {"DVC_ROOT": str(clone.folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MAIN, "serve", named, "--port", str(port), "--drain", "0"]
    with (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(command, cwd=clone.folder, env=environment, stdout=log, stderr=log)
    try:
        until_up(f"http://127.0.0.1:{port}/readyz", service, tmp_path / "log")
        history = pl.read_parquet(clone.folder / "data/filtered/items.parquet")["parent_asin"].head(2).to_list()
        sent = {"history": [{"parent_asin": asin} for asin in history], "k": 3}
        for tower, status in ((None, 200), ("teacher", 200), ("llm", 400), ("cf", 400)):
            asked = HTTPConnection("127.0.0.1", port, timeout=60)
            body = json.dumps({"inputs": [sent | ({"tower": tower} if tower else {})]})
            asked.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = asked.getresponse()
            said = answer.read().decode()
            assert answer.status == status, said
            assert ("no tower but 'teacher'" in said) == (status == 400)
            assert status == 400 or answer.getheader("x-llmsrec-tower") == "teacher"
            asked.close()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as figures:
            assert 'process="llm"' not in figures.read().decode(), "no worker for a tower that it does not have"
    finally:
        service.terminate()
        assert service.wait(timeout=60) == 0


def test_others_that_can_teach_are_registered_by_themselves(clone: Any, first: str) -> None:
    others = ("bert4rec", "ctrl")  # the export of all is tried in tests/models/cf
    set_params(clone.folder / "systems/bert4rec.yaml", {"epochs": 1, "dim": 16})
    clone.run("dvc", "repro", *(f"alone/dvc.yaml:register@{name}" for name in others))
    logged, versions = runs(clone), set()
    for name in others:
        made = json.loads((clone.folder / f"metrics/systems/{name}-registered.json").read_text())
        bundle = tracking.bundle_of(f"{made['name']}/{made['version']}", clone.folder)
        assert Bundle.open(bundle).digest == made["bundle_sha256"]
        assert [path.name for path in (bundle / "onnx").iterdir()] == [f"{name}.onnx"]
        assert made["run_id"] == logged[name].info.run_id
        versions.add(made["version"])
        history = pl.read_parquet(bundle / "items.parquet")["parent_asin"].head(2).to_list()
        sent = {"history": [{"parent_asin": asin} for asin in history], "k": 3}
        (answer,) = Recommender.load(bundle).recommend(parse([sent]))
        assert (len(answer.items), answer.used, answer.fallback) == (3, 2, None)
    assert len(versions) == len(others)
