"""`dvc repro cross/dvc.yaml`: LLM-SRec asked about the users of other data, logged, and read as Table 8 reads it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest

from llmsrec.evaluation.significance import Bootstrap
from llmsrec.experiments.results import Measures, Results
from llmsrec.experiments.runs import Run
from llmsrec.experiments.workspace import Workspace
from llmsrec.registry import tracking
from tests.params_file import set_params

NAME = "llm_srec-retrieval"
TARGET = f"cross/dvc.yaml:log@{NAME}"


@pytest.fixture(scope="module")
def first(clone: Any, built: str) -> str:
    clone.run("git", "checkout", "-q", "params.yaml")
    clone.run("dvc", "repro")
    return clone.run("dvc", "repro", TARGET)


def test_every_user_of_the_other_data_is_ranked_and_logged(clone: Any, first: str) -> None:
    assert clone.stages_run(first) == [f"cross/dvc.yaml:{step}" for step in ("target", f"cross@{NAME}", f"log@{NAME}")]
    users = pl.read_parquet(clone.folder / "data/target/split/test.parquet").height
    ranks = pl.read_parquet(clone.folder / f"reports/cross/{NAME}.parquet")
    assert {*ranks["model"]} == {"llm_srec"} and {*ranks["split"]} == {"valid", "test", "test_shuffled"}
    assert ranks.group_by("split", "protocol").len()["len"].unique().to_list() == [users]
    logged = json.loads((clone.folder / f"metrics/cross/{NAME}.json").read_text())
    run = mlflow.MlflowClient(f"sqlite:///{clone.folder}/mlruns/mlflow.db").get_run(logged["run_id"])
    assert run.info.run_name == "LLM-SRec, trained on Sample, asked about Other"
    assert run.data.metrics["test/full/hr_10"] == pytest.approx(logged["llm_srec"]["test"]["full"]["hr_10"])
    assert run.data.params["cross.sample_seed"] == "8"


def test_where_the_other_data_stay_nothing_follows(clone: Any, first: str) -> None:
    assert clone.stages_run(clone.run("dvc", "repro", TARGET)) == ["cross/dvc.yaml:target"]
    assert clone.stages_run(clone.run("dvc", "repro")) == [], "no part of a plain `dvc repro`"


def test_a_table_of_other_data_stands_beside_the_others(clone: Any, first: str, tmp_path: Path) -> None:
    environment = {**os.environ, "GIT_INDEX_FILE": str(tmp_path / "index")}  # the clone's own stays as it is

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=clone.folder, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("add", "-A")
    head, tree = git("rev-parse", "HEAD"), git("write-tree")
    commit, runs = git("commit-tree", tree, "-p", head, "-m", "ran"), [Run("original"), Run("cross")]
    refs = [f"refs/exps/{head[:2]}/{head[2:]}/{run.name}" for run in runs]
    for ref in refs:
        git("update-ref", ref, commit)
    with tracking.existing(clone.folder, "") as client:
        results = Results(client, Workspace(clone.folder), tmp_path, [0], Measures(Bootstrap(50, 0), 20))
        values = [results.values(run.setting, "llm_srec", "test", "uni99", "hr_10") for run in runs]
        digests = [results.side(run).common for run in runs]
    for ref in refs:
        git("update-ref", "-d", ref)
    users = [pl.read_parquet(clone.folder / f"data/{part}/test.parquet").height for part in ("split", "target/split")]
    assert [of.shape for of in values] == [(1, count) for count in users]
    assert digests[0].keys() == digests[1].keys() and not set(digests[0].values()) & set(digests[1].values())


def test_the_data_that_were_trained_on_are_no_other_data(clone: Any, first: str) -> None:
    set_params(clone.folder / "params.yaml", {"cross.sample_seed": 7})
    said = clone.run("dvc", "repro", TARGET, fails=True)
    set_params(clone.folder / "params.yaml", {"cross.sample_seed": 8})
    assert "`cross` in params.yaml names the data that were trained on (sample, Other: the same" in said
