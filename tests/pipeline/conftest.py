"""A clone of this repository with settings for seconds instead of minutes, in which the pipeline runs for real."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.params_file import set_params

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "sample.users": 160,
    "sample.items": 200,
    "split.negatives": 20,
    "backbone.embedded.vocab_size": 600,
    "backbone.embedded.hidden_size": 32,
    "backbone.embedded.layers": 1,
    "backbone.embedded.heads": 2,
    "backbone.embedded.steps": 5,
    "backbone.embedded.batch_size": 4,
    "sasrec.dim": 16,
    "sasrec.epochs": 2,
    "model.d_prime": 16,
    "model.head_hidden": 32,
    "train.epochs": 1,
    "train.evaluations_per_epoch": 2,
    "evaluate.validation_users": 50,
    "evaluate.bootstrap": 100,
    "export.users": 50,
}


@dataclass(frozen=True)
class Clone:
    """A git clone with DVC, and a shell in it."""

    folder: Path

    def run(self, *command: str, fails: bool = False, **environment: str) -> str:
        """Run a command there and return what it printed; its exit status must be what is expected."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, output[-6000:]
        return output

    def stages_run(self, output: str) -> list[str]:
        """Names of the stages that a `dvc` command ran, in order."""
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def make_clone(folder: Path) -> Clone:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    set_params(folder / "params.yaml", SMALL)
    clone = Clone(folder)
    clone.run("git", "init", "-q", "-b", "main")
    clone.run("git", "config", "user.email", "test@example.org")
    clone.run("git", "config", "user.name", "test")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "clone")
    return clone


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return make_clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="session")
def built(clone: Clone) -> str:
    """What the clone's first `dvc repro` printed; what it made is committed."""
    output = clone.run("dvc", "repro")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "first repro")
    return output
