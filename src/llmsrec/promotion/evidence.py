"""What is known of a version, brought from the registry alone: its bundle and its run's reports, both unaltered."""

from pathlib import Path

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llmsrec.errors import DataError
from llmsrec.files import read_json
from llmsrec.promotion.facts import Evaluated, Evidence
from llmsrec.registry.record import ADDED, REPORTS, SEALED, TEST_USERS, TOWER_RANKS, seal
from llmsrec.registry.verified import BUNDLE, verified

ANEW = "Delete this version and its run in MLflow, then run `dvc repro -f -s register`."


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
    ranks = (reports / "ranks.parquet", reports / TOWER_RANKS)
    return Evaluated(
        version=int(version.version),
        checks=read_json(reports / "checks.json"),
        comparison=read_json(reports / "comparison.json"),
        ranks=pl.concat(pl.read_parquet(path) for path in ranks if path.is_file()),
        slices=pl.read_parquet(reports / "slices.parquet"),
        test_users=pl.read_parquet(reports / TEST_USERS) if (reports / TEST_USERS).is_file() else None,
        added=read_json(reports / ADDED) if (reports / ADDED).is_file() else None,
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
