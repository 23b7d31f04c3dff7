"""A version whose catalogue is longer than that of another: a run of its own, which says what it extends.

The run has the parameters, data and reports of the version that it extends, as nothing was trained, and beside them
which items were added and what they cost. The version gets no alias: `llmsrec promote` judges it as any other.
"""

from dataclasses import dataclass
from pathlib import Path

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llmsrec.files import read_json
from llmsrec.registry import card, tracking
from llmsrec.registry.record import ADDED, SEALED, Record, seal

OWN = ("reports", "cards", "evaluations", "added")  # of a run's artifacts what is of its own version alone
LINEAGE = ("data.source", "data.category", "backbone", "started_from", "dvc.experiment", "dvc.baseline")
EXTENDS, EXTENDS_RUN = "extends", "extends.run_id"
ITEMS = "items.jsonl"  # among the run's artifacts, in added/


@dataclass(frozen=True)
class Registered:
    """What was registered: the version's number and its run."""

    version: int
    run_id: str


def register(
    root: Path, extended: ModelVersion, bundle: Path, reports: Path, added: pl.DataFrame, folder: Path
) -> Registered:
    """Register a bundle as a version that extends another; again, it is found.

    Args:
        root: the repository.
        extended: the version.
        bundle: as `export.extended` wrote it.
        reports: the reports of `extended`, and added.json.
        added: the new items.
        folder: an empty folder.
    """
    parent = f"{extended.name}/{extended.version}"
    with tracking.connected(root) as client:
        run = client.get_run(str(extended.run_id))
        tags = {key: run.data.tags[key] for key in (*LINEAGE, "checks.passed") if key in run.data.tags}
        tags |= {EXTENDS: parent, EXTENDS_RUN: run.info.run_id}
        digest, about = read_json(bundle / "manifest.json")["bundle_sha256"], read_json(reports / ADDED)
        added.write_ndjson(folder / ITEMS)
        evaluation = read_json(reports / "evaluation.json") if (reports / "evaluation.json").is_file() else {}
        evaluation.setdefault("llm_srec", {})["added"] = {"items": about["items"]} | {
            tower: {"ndcg_10": cost["difference"]} for tower, cost in about["towers"].items()
        }
        logged = Record(
            digest=digest,
            name=f"{len(added):,} items added to {parent}",
            params=dict(run.data.params),
            evaluation=evaluation,
            curve=[],
            data={of.dataset.name: of.dataset.digest for of in run.inputs.dataset_inputs} if run.inputs else {},
            tags=tags | {SEALED: seal(reports)},
            files={
                **_artifacts(client, run.info.run_id, folder / "run"),
                "reports": sorted(reports.iterdir()),
                "added": [folder / ITEMS],
            },
        )
        run_id = tracking.ensure_run(client, run.info.experiment_id, logged)
        version = tracking.ensure_version(
            client, run.info.experiment_id, run_id, extended.name, bundle, tags | {tracking.DIGEST: digest}
        )
        text = card.extended(extended.name, version, run_id, about, len(added), _card(client, extended, folder))
        card.attach(client, extended.name, version, text)
    return Registered(version, run_id)


def added(client: MlflowClient, version: ModelVersion, folder: Path) -> list[str]:
    """The parent_asins that were added to a version, and to those that it extends, since their training.

    Args:
        folder: where files are brought to.
    """
    ids: list[str] = []
    run_id: str | None = version.run_id
    while run_id and (extends := client.get_run(run_id).data.tags.get(EXTENDS_RUN)):
        place = folder / run_id
        place.mkdir(parents=True)
        ids = [*pl.read_ndjson(_download(run_id, f"added/{ITEMS}", place))["parent_asin"], *ids]
        run_id = extends
    return ids


def _artifacts(client: MlflowClient, run_id: str, folder: Path) -> dict[str, list[Path]]:
    """What a run keeps of its parameters and data, brought to `folder`: its place among the artifacts -> files."""
    folder.mkdir()
    for entry in client.list_artifacts(run_id):
        if entry.path not in OWN:
            _download(run_id, entry.path, folder)
    kept: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = path.parent.relative_to(folder).as_posix()
        kept.setdefault("" if place == "." else place, []).append(path)
    return kept


def _card(client: MlflowClient, version: ModelVersion, folder: Path) -> str:
    """A version's card, whole where its run has it."""
    name = f"cards/{version.name}-{version.version}.md"
    if not any(entry.path == name for entry in client.list_artifacts(str(version.run_id), "cards")):
        return str(version.description or "")
    return _download(str(version.run_id), name, folder).read_text(encoding="utf-8")


def _download(run_id: str, name: str, folder: Path) -> Path:
    uri = mlflow.get_tracking_uri()
    return Path(
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=str(folder), tracking_uri=uri)
    )
