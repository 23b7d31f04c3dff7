"""What a person calls a run: a version, an alias, a run's id or name, a DVC experiment or a git revision."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llmsrec.errors import DataError, nearest
from llmsrec.files import read_json
from llmsrec.registry import revisions, versions

REGISTERED = "metrics/registered.json"
WORKSPACE = "workspace"


@dataclass(frozen=True)
class Named:
    """A run, and the version that the name stands for, if it stands for one.

    Attributes:
        name: as it was asked for.
        run_id: of the MLflow run.
        version: such as `llm-srec/3`, or None.
    """

    name: str
    run_id: str
    version: str | None = None


def find(client: MlflowClient, root: Path, model: str, name: str) -> Named:
    """Look `name` up.

    In this order: a version with its model (`shop/5`, `shop@staging`, `models:/` and these), its number or alias alone,
    which are then `model`'s; a run's id; a run's name; `workspace`, a DVC experiment or a git revision, by their
    metrics/registered.json.

    Raises:
        DataError: nothing or several things are called that, or a version has no run.
    """
    said = versions.read(name)
    version = _known_version(client, said[0] or model, said[1]) if said else None
    if version:
        return _of_version(version, name)
    if name.startswith(versions.URI):
        return _missing(client, said[0] if said and said[0] else model, name)
    run = _run(client, name)
    return run or _tracked(root, name) or _missing(client, model, name)


def _known_version(client: MlflowClient, model: str, which: str) -> ModelVersion | None:
    try:
        return client.get_model_version(model, which) if which.isdigit() else _by_alias(client, model, which)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _by_alias(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    return client.get_model_version_by_alias(model, alias) if re.fullmatch(r"[A-Za-z][\w-]*", alias) else None


def _of_version(version: ModelVersion, name: str) -> Named:
    if not version.run_id:
        raise DataError(
            f"version {version.version} of {version.name} has no MLflow run, so nothing is known of its training; "
            "compare a version that `dvc repro register` made."
        )
    return Named(name, version.run_id, f"{version.name}/{version.version}")


def _run(client: MlflowClient, name: str) -> Named | None:
    if re.fullmatch(r"[0-9a-f]{32}", name):
        try:
            return Named(name, client.get_run(name).info.run_id)
        except MlflowException:
            return None
    if '"' in name:
        return None
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = list(client.search_runs(places, filter_string=f'attributes.run_name = "{name}"'))
    if not runs:  # the name of its DVC experiment, in brackets behind it, may be left out
        named = client.search_runs(places, filter_string=f'attributes.run_name LIKE "{name} (%"')
        runs = [run for run in named if run.info.run_name.startswith(f"{name} (")]  # to LIKE `_` is any character
    if len(runs) > 1:
        ids = ", ".join(run.info.run_id for run in runs)
        raise DataError(f"{len(runs)} runs are called {name!r}: {ids}; give one of these ids.")
    return Named(name, runs[0].info.run_id) if runs else None


def _tracked(root: Path, name: str) -> Named | None:
    """By what `register` wrote there."""
    if name == WORKSPACE:
        registered = read_json(root / REGISTERED)
    else:
        commits = revisions.experiments(root, name)
        if len(commits) > 1:
            raise DataError(
                f"{len(commits)} DVC experiments are called {name!r}, on different commits: "
                f"{', '.join(commit[:7] for commit in commits)}; give one of these."
            )
        text = revisions.show(root, commits[0] if commits else name, REGISTERED)
        if text is None and commits:
            raise DataError(f"the DVC experiment {name!r} has no {REGISTERED}: it ended before `register`.")
        registered = None if text is None else json.loads(text)
    return registered and Named(name, registered["run_id"], f"{registered['name']}/{registered['version']}")


def _missing(client: MlflowClient, model: str, name: str) -> Named:
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    others = [run.info.run_name for run in client.search_runs(places)]
    try:
        newest = max((int(v.version) for v in client.search_model_versions(f"name = '{model}'")), default=0)
        known = f"Model {model} has versions up to {newest} and the aliases {versions.aliases(client, model)}"
        others += client.get_registered_model(model).aliases
    except MlflowException:
        known = f"No model {model} is registered"
    raise DataError(
        f"nothing is called {name!r}{nearest(name, others)} {known}; `mlflow runs search` and `dvc exp list` name runs "
        "and experiments."
    )
