"""What is known of a version, brought from the registry alone: its bundle and its run's reports, both unaltered."""

import re
from pathlib import Path

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llmsrec.errors import DataError, RequestError
from llmsrec.files import read_json
from llmsrec.registry import aliases
from llmsrec.registry.gate import Evaluated, Evidence
from llmsrec.registry.record import REPORTS, SEALED, TEST_USERS, seal
from llmsrec.registry.verified import BUNDLE, verified

ANEW = "Delete this version and its run in MLflow, then run `dvc repro -f -s register`."


def split(wanted: str, model: str) -> tuple[str, str]:
    """The registered model and the number or alias of `5`, `staging`, `shop/5`, `shop@staging` or a models:/ URI.

    Args:
        model: what a version without a name is of.
    """
    named = re.fullmatch(r"(?:models:/)?([^/@]+)(?:/(\d+)|@([^/@]+))", wanted)
    return (named[1], named[2] or named[3]) if named else (model, wanted)


def of_model(wanted: str, model: str | None, default: str) -> tuple[str, str]:
    """`split`, where `--model` may say the model, too.

    Raises:
        RequestError: the two name different models.
    """
    name, which = split(wanted, model or default)
    if model and name != model:
        raise RequestError(f"{wanted} is of the model {name}, and --model says {model}; leave one of them out.")
    return name, which


def find(client: MlflowClient, name: str, wanted: str) -> ModelVersion:
    """A version by its number or by an alias.

    Raises:
        RequestError: there is none; those that there are are named.
    """
    try:
        get = client.get_model_version if re.fullmatch(r"\d+", wanted) else client.get_model_version_by_alias
        return get(name, wanted)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        numbers = sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))
        if not numbers:
            raise RequestError(f"{name} has no versions yet; run `dvc repro`.") from error
        raise RequestError(
            f"{name} has no version or alias {wanted!r}; versions: {', '.join(map(str, numbers[-10:]))}; "
            f"aliases: {aliases.shown(client, name)}."
        ) from error


def collect(client: MlflowClient, version: ModelVersion, into: Path) -> Evidence:
    """Bring a version here: `into`/model, as MLflow stored it, and `into`/reports.

    Raises:
        DataError: see `evaluated`; or the version has no digest, or its bundle is not there.
    """
    name = f"{version.name} version {version.version}"
    reports = evaluated(client, version, into)
    digest = model(client, version, into / "model")
    bundle = into / "model/artifacts/bundle"
    for file in ("config.json", "parity.json"):
        if not (bundle / file).is_file():
            raise DataError(f"{name}: {file} of its bundle is missing from the registry's artifacts. {ANEW}")
    return Evidence(
        **vars(reports),
        bundle_sha256=digest,
        config=read_json(bundle / "config.json"),
        parity=read_json(bundle / "parity.json"),
    )


def model(client: MlflowClient, version: ModelVersion, into: Path) -> str:
    """Bring a version's model here, as MLflow stored it and as it was registered, and return its bundle's digest.

    Raises:
        DataError: see `verified`.
    """
    verified(client, version, into)
    return version.tags[BUNDLE]


def evaluated(client: MlflowClient, version: ModelVersion, into: Path) -> Evaluated:
    """Bring the reports of a version's run to `into`/reports.

    Raises:
        DataError: there is no run, it keeps no evidence, or a report is missing or altered.
    """
    name = f"{version.name} version {version.version}"
    sealed = _run(client, version, name).data.tags.get(SEALED)
    if sealed is None:
        raise DataError(f"{name}: its run {version.run_id} has no tag {SEALED}, so it keeps no evidence. {ANEW}")
    _fetch(name, into, run_id=version.run_id, artifact_path="reports")
    reports = into / "reports"
    for file in REPORTS:
        if not (reports / file).is_file():
            raise DataError(f"{name}: reports/{file} is missing from the artifacts of its run {version.run_id}. {ANEW}")
    if seal(reports) != sealed:
        raise DataError(
            f"{name}: the reports of its run {version.run_id} are not those that were logged ({SEALED} "
            f"{sealed[:12]}). {ANEW}"
        )
    return Evaluated(
        version=int(version.version),
        checks=read_json(reports / "checks.json"),
        comparison=read_json(reports / "comparison.json"),
        ranks=pl.read_parquet(reports / "ranks.parquet"),
        slices=pl.read_parquet(reports / "slices.parquet"),
        test_users=pl.read_parquet(reports / TEST_USERS) if (reports / TEST_USERS).is_file() else None,
    )


def _run(client: MlflowClient, version: ModelVersion, name: str) -> Run:
    if not version.run_id:
        raise DataError(f"{name} has no run, so nothing is known of its training. {ANEW}")
    try:
        run = client.get_run(version.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise DataError(f"{name}: its run {version.run_id} is gone. {ANEW}") from error
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise DataError(
            f"{name}: its run {version.run_id} is deleted; `mlflow runs restore --run-id {version.run_id}` first."
        )
    return run


def _fetch(name: str, into: Path, **what: str | None) -> None:
    """Copy artifacts; a store that does not have them answers in many ways."""
    into.mkdir(parents=True, exist_ok=True)
    try:
        mlflow.artifacts.download_artifacts(dst_path=str(into), tracking_uri=mlflow.get_tracking_uri(), **what)
    except (MlflowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{name}: its artifacts cannot be had: {reason}. {ANEW}") from error
