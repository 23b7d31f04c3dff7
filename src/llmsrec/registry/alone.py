"""A compared system by itself as a version: its bundle and its evidence join the run that it was logged as."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from llmsrec.errors import DataError
from llmsrec.registry import card, card_alone, record, tracking
from llmsrec.registry.record import SEALED, SYSTEM, Record


@dataclass(frozen=True)
class Outs:
    """What the stages left of it.

    Attributes:
        bundle: the folder.
        reports: the folder of comparison.json, checks.json and test_users.parquet, the evidence beside its ranks.
        evaluation: its figures.
        curve: of its training.
    """

    bundle: Path
    reports: Path
    evaluation: dict[str, Any]
    curve: list[dict[str, Any]]


def register(client: MlflowClient, run_id: str, system: str, model: str, data: Path, outs: Outs) -> int:
    """Register a version of `model` and return its number; again, it is found. No alias is moved.

    Args:
        run_id: of its run, which has its ranks.
        data: the folder of raw, filtered and split.

    Raises:
        DataError: there is no such run.
    """
    run = _run(client, run_id, system)
    _add_evidence(client, run, outs.reports)
    params, digest = run.data.params, run.data.tags[tracking.DIGEST]
    tags = {SYSTEM: system} | {key: params[key] for key in ("data.category", "data.source")}
    about = tags | {tracking.DIGEST: digest}
    version = tracking.ensure_version(client, run.info.experiment_id, run_id, model, outs.bundle, about)
    logged = Record(digest, str(run.info.run_name), dict(params), outs.evaluation, outs.curve, tags=tags, model=system)
    facts = card.read(model, version, run_id, logged, data, outs.reports, outs.bundle)
    card.attach(client, model, version, card_alone.text(facts))
    return version


def _run(client: MlflowClient, run_id: str, system: str) -> Run:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        raise DataError(
            f"the run {run_id} of {system} is not in the registry at {client.tracking_uri}, or was deleted; "
            f"`dvc repro -f -s baselines/dvc.yaml:log@{system}-retrieval` logs it anew."
        )
    return run


def _add_evidence(client: MlflowClient, run: Run, reports: Path) -> None:
    """What a promotion goes by, sealed beside the ranks that the run has; a run that has it keeps it."""
    if SEALED in run.data.tags:
        return
    run_id = run.info.run_id
    with TemporaryDirectory() as place:
        mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path="reports", dst_path=place, tracking_uri=client.tracking_uri
        )
        whole = Path(place) / "reports"
        for path in reports.iterdir():
            shutil.copy(path, whole)
            client.log_artifact(run_id, str(path), "reports")
        for key, value in record.evidence(whole).items():
            client.set_tag(run_id, key, value)
