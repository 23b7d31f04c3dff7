"""What git holds of other revisions of this repository; a DVC experiment is a commit below refs/exps."""

import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from llmsrec.registry.record import flatten


def show(root: Path, revision: str, path: str) -> str | None:
    """A tracked file's text at a revision, or None where there is no such revision, file or repository.

    `path` is relative to `root`, which may be a folder of a larger repository.
    """
    done = _git(root, "show", f"{revision}:./{path}")
    return done.stdout if done.returncode == 0 else None


def params(root: Path, revision: str) -> dict[str, Any]:
    """params.yaml of a revision, flat, unchecked, as another version of this code may have written it; `{}` if none."""
    text = show(root, revision, "params.yaml")
    return flatten(YAML(typ="safe").load(text)) if text else {}


def source(root: Path, experiment: str | None) -> dict[str, str]:
    """MLflow's tags of Source and Version in its list of runs: the command, and the commit that is checked out."""
    tags = {"mlflow.source.name": "dvc exp run" if experiment else "dvc repro", "mlflow.source.type": "PROJECT"}
    head = _git(root, "rev-parse", "--verify", "HEAD")
    return tags | ({"mlflow.source.git.commit": head.stdout.strip()} if head.returncode == 0 else {})


def experiments(root: Path, name: str) -> list[str]:
    """The commits of the DVC experiments of that name: one for each baseline that it was run on."""
    return [commit for (_, called), commit in _experiments(root).items() if called == name]


def experiments_at_head(root: Path) -> dict[str, str]:
    """Name -> commit of the DVC experiments that were run on the commit that is checked out."""
    head = _git(root, "rev-parse", "HEAD").stdout.strip()
    return {name: commit for (baseline, name), commit in _experiments(root).items() if baseline == head}


def _experiments(root: Path) -> dict[tuple[str, str], str]:
    """(baseline, name) -> commit; refs are `refs/exps/<2 digits>/<38 digits>/<name>`, and DVC's own beside them."""
    listed = _git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    listing = [line.split(" ", 1) for line in listed.stdout.splitlines()]
    parts = [(commit, ref.split("/")) for commit, ref in listing]
    return {(ref[2] + ref[3], ref[4]): commit for commit, ref in parts if len(ref) == 5}


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
