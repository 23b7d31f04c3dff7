"""`llmsrec drift` with a version of the registry: what is kept of it in MLflow."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.data.sequences import Sequences
from llmsrec.drift import reference
from llmsrec.registry import tracking
from llmsrec.registry.drift_run import TAG

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(scope="module")
def watched(tiny: Any, registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 of `watched` knows its training users; a log of them, and the root has params.yaml."""
    folder = tmp_path_factory.mktemp("watched")
    whole = Sequences.read(tiny.folder / "data/filtered/interactions.parquet")
    bundle = shutil.copytree(tiny.bundle, folder / "bundle", ignore=shutil.ignore_patterns("__pycache__"))
    reference.add(bundle, whole)
    with tracking.connected(registry.root) as client:
        place = tracking.experiment(client, "llm-srec", registry.root)
        tracking.ensure_version(client, place, registry.run_id, "watched", bundle, {})
        client.set_registered_model_alias("watched", "staging", "1")
    lines = [
        {"time": 1, "tower": "cf", "history": [{"parent_asin": f"B{item}", "timestamp": int(time)} for item, time in
                                               zip(*whole.of(user), strict=True)]}
        for user in [*range(1, 41), *range(1, 41)]
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    shutil.copy(PARAMS, registry.root / "params.yaml")
    return folder / "log.jsonl"


def test_a_comparison_is_a_run_beside_the_versions_own(
    watched: Path, registry: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(registry.root))
    assert cli.main(["drift", "--requests", str(watched), "--model", "models:/watched@staging"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    client = MlflowClient(registry.uri)
    run = client.get_run(last.removeprefix("MLflow run "))
    assert run.info.experiment_id == client.get_run(registry.run_id).info.experiment_id
    assert (run.info.status, run.data.tags[TAG], run.data.tags["drift"]) == ("FINISHED", "watched/1", "false")
    assert run.data.metrics["drift/users"] == 80 and run.data.metrics["drift/length"] == 0
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"drift.md", "drift.json", "drift.png"}


def test_a_version_from_before_there_was_a_reference_says_what_to_do(
    watched: Path, registry: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(registry.root))
    assert cli.main(["drift", "--requests", str(watched), "--model", "models:/llm-srec/1"]) == 1
    error = capsys.readouterr().err
    assert "holds no reference.parquet" in error and error.count("\n") == 1
