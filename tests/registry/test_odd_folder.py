"""A repository in a folder whose name means something in a URL, below a larger git repository.

All that MLflow and Optuna keep lies in it, and what reads it again finds it.
"""

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmsrec import cli, params
from llmsrec.experiments import compare
from llmsrec.files import write_json
from llmsrec.registry import tracking
from llmsrec.registry.record import Record
from llmsrec.serving.bundle import verify
from llmsrec.tuning import study
from tests.registered import RECORD

REPOSITORY = Path(__file__).parents[2]
NAME = "a b?c%20d#é"


@pytest.fixture(scope="module")
def root(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `register` leaves it, and committed."""
    root = tmp_path_factory.mktemp("larger") / NAME
    (root / "metrics").mkdir(parents=True)
    shutil.copy(REPOSITORY / "params.yaml", root)
    entry = dataclasses.replace(Record(**RECORD), files={"": [root / "params.yaml"]})
    with tracking.connected(root) as client:
        place = tracking.experiment(client, "llm-srec", root)
        run_id = tracking.ensure_run(client, place, entry)
        version = tracking.ensure_version(client, place, run_id, "llm-srec", tiny.bundle, {})
    registered = {"name": "llm-srec", "version": version, "run_id": run_id, "bundle_sha256": verify(tiny.bundle)}
    write_json(root / "metrics/registered.json", registered)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in (("init", "-q"), ("add", f"{NAME}/metrics"), (*identity, "commit", "-qm", "registered")):
        subprocess.run(["git", *command], cwd=root.parent, check=True)
    return root


def test_everything_lies_in_the_folder_and_is_found_again(root: Path, tiny: Any, monkeypatch: Any, capsys: Any) -> None:
    assert [path.name for path in root.parent.iterdir() if path.name != ".git"] == [NAME]
    assert {path.name for path in (root / "mlruns").iterdir()} == {".lock", "artifacts", "mlflow.db"}
    assert list((root / "mlruns/artifacts").rglob("params.yaml"))
    assert verify(tracking.bundle_of("models:/llm-srec/1", root)) == verify(tiny.bundle)
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    assert cli.main(["registered"]) == 0
    assert "llm-srec version 1 is registered" in capsys.readouterr().out


def test_a_revision_of_the_larger_repository_is_compared(root: Path) -> None:
    compared = compare.compare(root, "1", "HEAD", False).text()
    assert compared.count("llm-srec/1") == 2


def test_a_study_is_kept_there_and_found_again(root: Path) -> None:
    chosen = params.load(root / "params.yaml")
    begun = study.begin(chosen, {}, root)
    assert (root / "mlruns/tune.db").exists()
    assert study.find(chosen, root).user_attrs == begun.user_attrs
    assert not list(root.parent.glob("a b?/**/*.db")), "nothing lies in a folder of half the name"
