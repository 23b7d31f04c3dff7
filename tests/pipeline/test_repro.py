"""`dvc repro` from nothing to a registered version, again, and with an ablation."""

import json
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest

ORDER = [
    "start", "ingest", "filter", "split", "validate", "backbone", "sasrec", "llm_srec", "evaluate", "export",
    "register",
]  # fmt: skip


def client(clone: Any) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{clone.folder}/mlruns/mlflow.db")


def runs(clone: Any) -> list[Any]:
    """LLM-SRec's."""
    opened = client(clone)
    logged = opened.search_runs([experiment.experiment_id for experiment in opened.search_experiments()])
    return [run for run in logged if "system" not in run.data.tags]


def counts(clone: Any) -> tuple[int, int]:
    """LLM-SRec's runs, and the versions that are linked with them."""
    ids = {run.info.run_id for run in runs(clone)}
    return len(ids), sum(version.run_id in ids for version in client(clone).search_model_versions("name='llm-srec'"))


def test_every_stage_runs_once_and_writes_its_outs(clone: Any, built: str) -> None:
    assert sorted(clone.stages_run(built), key=ORDER.index) == ORDER
    for name in [
        "data/filtered/interactions.parquet",
        "data/split/candidates.parquet",
        "reports/checks.json",
        "models/backbone/backbone.json",
        "models/sasrec/config.json",
        "models/llm_srec/model.safetensors",
        "metrics/evaluation.json",
        "reports/ranks.parquet",
        "reports/tower_ranks.parquet",
        "reports/slices.parquet",
        "models/bundle/manifest.json",
        "metrics/registered.json",
    ]:
        assert (clone.folder / name).exists(), name
    assert not [path for path in clone.folder.glob("models/**/*") if path.suffix in (".pkl", ".pickle", ".pt", ".bin")]


def test_ranks_and_metrics_agree_with_the_contract(clone: Any, built: str) -> None:
    ranks = pl.read_parquet(clone.folder / "reports/ranks.parquet")
    users = pl.read_parquet(clone.folder / "data/split/test.parquet").height
    sizes = ranks.group_by("model", "split", "protocol").len()
    assert sizes.height == 3 * 3 * 2, "every model, split and protocol"
    assert sizes["len"].unique().to_list() == [users], "all users"
    evaluation = json.loads((clone.folder / "metrics/evaluation.json").read_text())
    towers = pl.read_parquet(clone.folder / "reports/tower_ranks.parquet")
    assert towers.columns == ranks.columns and {*towers["model"]} == {"tower_blend", "tower_cf"}
    blend = towers.filter(model="tower_blend", split="test", protocol="full")["rank"]
    assert evaluation["llm_srec"]["test"]["full"]["tower_blend"]["hr_10"] == pytest.approx((blend < 10).mean())
    test = ranks.filter(model="llm_srec", split="test", protocol="uni99")["rank"]
    assert evaluation["llm_srec"]["test"]["uni99"]["hr_10"] == pytest.approx((test < 10).mean())


def test_a_second_repro_changes_nothing(clone: Any, built: str) -> None:
    assert counts(clone) == (1, 1)
    assert clone.stages_run(clone.run("dvc", "repro")) == []
    assert counts(clone) == (1, 1)


def test_a_clone_elsewhere_runs_nothing_and_registers_from_the_files(clone: Any, built: str, tmp_path: Path) -> None:
    clone.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    clone.run("git", "commit", "-qam", "a remote")
    clone.run("dvc", "push", "-q")
    clone.run("git", "clone", "-q", str(clone.folder), str(tmp_path / "elsewhere"))
    other = type(clone)(tmp_path / "elsewhere")
    other.run("dvc", "pull", "-q")
    said = other.run("llmsrec", "recommend", "--tower", "cf", fails=True)
    assert "no registry at" in said and "`dvc repro -f -s register`" in said and said.count("\n") == 1

    output = other.run("make", "-o", "setup", "repro")  # what is installed here will do
    assert other.stages_run(output) == ["register"], "and `dvc repro` before it ran nothing"
    (ours,), (theirs,) = runs(clone), runs(other)
    measured = {key: value for key, value in ours.data.metrics.items() if not key.startswith("time/")}
    assert theirs.data.params == ours.data.params and theirs.data.metrics == measured, "nothing took time there"
    assert theirs.data.tags["llmsrec.digest"] == ours.data.tags["llmsrec.digest"]
    assert client(other).get_model_version_by_alias("llm-srec", "candidate").run_id == theirs.info.run_id
    assert other.run("git", "diff", "HEAD", "--name-only").split() == ["dvc.lock", "metrics/registered.json"]
    assert other.stages_run(other.run("make", "-o", "setup", "repro")) == []

    client(other).delete_model_version("llm-srec", "1")
    said = other.run("llmsrec", "registered", fails=True)
    assert "llm-srec version 1" in said and "`dvc repro -f -s register`" in said and said.count("\n") == 1


def test_an_ablation_re_runs_llm_srec_and_later_only(clone: Any, built: str) -> None:
    output = clone.run("dvc", "exp", "run", "-S", "model.uniform=false", "-S", "model.distill=false")
    ran = sorted(clone.stages_run(output), key=ORDER.index)  # evaluate and export wait for no other
    assert ran == ["llm_srec", "evaluate", "export", "register"]
    uniform = {run.data.params["model.uniform"] for run in runs(clone)}
    assert uniform == {"True", "False"} or uniform == {"true", "false"}
    assert all("test/uni99/ndcg_10" in run.data.metrics for run in runs(clone))
    losses = json.loads((clone.folder / "models/llm_srec/curve.json").read_text())
    assert not {"uniform", "distill"} & losses[0].keys()
    shown = clone.run("dvc", "exp", "show", "--csv")
    assert "model.uniform" in shown
    assert "uni99" in shown


def test_a_queued_experiment_lands_in_the_same_place(clone: Any, built: str) -> None:
    before = len(runs(clone))
    clone.run("dvc", "exp", "run", "--temp", "-S", "evaluate.seed=6")
    after = runs(clone)
    assert len(after) == before + 1
    newest = max(after, key=lambda run: run.info.start_time)
    assert Path(newest.info.artifact_uri.removeprefix("file://")).is_relative_to(clone.folder / "mlruns")
    assert list((clone.folder / "mlruns/artifacts").rglob("training.png"))


def test_a_wrong_parameter_stops_before_anything_changes(clone: Any, built: str) -> None:
    params = clone.folder / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("distill_loss: mse", "distill_loss: msee"))
    try:
        output = clone.run("dvc", "repro", fails=True)
        assert "`model.distill_loss` is 'msee': must be 'mse' or 'contrastive'" in output
        assert "Traceback" not in output
    finally:
        params.write_text(text)
