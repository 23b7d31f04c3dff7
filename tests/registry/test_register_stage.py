"""stages/register.py as DVC runs it: in its own folder, with the registry in the repository that DVC_ROOT names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llmsrec.files import read_json
from llmsrec.registry import record
from llmsrec.serving.bundle import verify
from tests.registry.made import write_outs

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workspace(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages before it leave."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in ("src", "stages"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("data", "models"):
        shutil.copytree(tiny.folder / name, folder / name)
    write_outs(folder, tiny)
    return folder


def as_dvc_does(workspace: Path, registry: Any) -> dict[str, Any]:
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_TRACKING"))}
    environment = keep | {"DVC_ROOT": str(registry.root), "DVC_EXP_NAME": "tubby-gobs"}
    command = [sys.executable, "-m", "stages.register"]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return read_json(workspace / "metrics/registered.json")


def again(workspace: Path) -> dict[str, Any]:
    """The same without a second start of Python."""
    from stages import register
    from stages.common import run

    run(register.main, "register")
    return read_json(workspace / "metrics/registered.json")


def set_param(workspace: Path, old: str, new: str) -> None:
    path = workspace / "params.yaml"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def test_the_stage_registers_once_and_moves_the_alias(
    workspace: Path, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(registry.uri)
    set_param(workspace, "model: llm-srec", "model: staged")
    first = as_dvc_does(workspace, registry)
    digest = verify(workspace / "models/bundle")
    assert first == {"name": "staged", "version": 1, "run_id": first["run_id"], "bundle_sha256": digest}
    run = client.get_run(first["run_id"])
    assert run.info.run_name == "Sample, embedded (tubby-gobs)"
    assert (run.data.params["model.uniform"], run.data.params["sasrec.loss"]) == ("True", "ce")
    assert (run.data.tags["dvc.experiment"], run.data.tags["checks.passed"]) == ("tubby-gobs", "true")
    assert run.data.tags["mlflow.source.name"] == "dvc exp run"
    manifests = {file.path for file in client.list_artifacts(first["run_id"], "data")}
    assert manifests == {"data/raw", "data/filtered", "data/split"}
    reports = {file.path.removeprefix("reports/") for file in client.list_artifacts(first["run_id"], "reports")}
    assert {"ranks.parquet", "slices.parquet", "comparison.json", "checks.json", "evaluation.json"} <= reports
    version = client.get_model_version("staged", "1")
    assert version.run_id == first["run_id"]
    assert version.description.startswith("NDCG@10 ") and "\n# staged version 1\n" in version.description
    assert [file.path for file in client.list_artifacts(first["run_id"], "cards")] == ["cards/staged-1.md"]
    assert run.data.tags["evidence_sha256"] == record.seal(workspace / "reports")

    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(workspace)
    monkeypatch.setenv("DVC_ROOT", str(registry.root))
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    set_param(workspace, "alias: candidate", "alias: other")
    assert again(workspace) == first
    assert client.get_registered_model("staged").aliases == {"candidate": 1, "other": 1}

    set_param(workspace, "nominate: auto", "nominate: never")
    set_param(workspace, "alias: other", "alias: unwanted")
    assert again(workspace) == first and "unwanted" not in client.get_registered_model("staged").aliases

    set_param(workspace, "  uniform: true", "  uniform: false")
    third = again(workspace)
    assert third["run_id"] != first["run_id"]
    assert third["version"] == 1  # the same bundle here, as nothing was trained
    assert not (workspace / "mlruns").exists()
