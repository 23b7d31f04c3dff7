"""MLflow: one run for one training and its evaluation, and one model version for one bundle.

Everything here can be called again: what is already there is found by its digest, what was cut short is completed.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password, if the URI has one
# A server that goes down in the middle is given some seconds to come back, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from requests import RequestException

from llmsrec import params as parameters
from llmsrec.errors import DataError
from llmsrec.files import read_json
from llmsrec.redaction import redact
from llmsrec.registry import verified, versions, view
from llmsrec.registry.address import REMEDY, own, reachable, reason, require, tracking_uri
from llmsrec.registry.record import Record, check, metrics
from llmsrec.registry.verified import BUNDLE, MODEL
from llmsrec.serving.bundle import verify

DIGEST = "llmsrec.digest"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens with its pages for prompts and traces
PARAMS_A_CALL, METRICS_A_CALL = 100, 1000  # what a tracking server takes at once
FINISHED = RunStatus.to_string(RunStatus.FINISHED)
# What answering requests imports; the rest of the pipeline is not installed where a model is served.
WITHOUT_LLM = ("mlflow", "numpy", "onnxruntime", "polars", "pydantic", "safetensors")
SERVING = tuple(sorted((*WITHOUT_LLM, "huggingface_hub", "peft", "tokenizers", "torch", "transformers")))


@contextmanager
def connected(root: Path, stage: str = "register") -> Iterator[MlflowClient]:
    """`session`, one at a time for one repository.

    Two processes that register at once would otherwise both find nothing and both write.

    Args:
        stage: which a user runs again after a failure.
    """
    with locked(root), session(root, f"Nothing is half-registered: run `dvc repro {stage}` again") as client:
        yield client


@contextmanager
def session(root: Path, remedy: str) -> Iterator[MlflowClient]:
    """A client of MLFLOW_TRACKING_URI, or of `root`/mlruns/mlflow.db.

    Args:
        remedy: what a user should know and do after a failure.

    Raises:
        DataError: whatever MLflow or what it stores its files in refuses.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they print what is raised anyway
    reachable(root)
    (root / "mlruns").mkdir(parents=True, exist_ok=True)
    given, uri = os.environ.get("MLFLOW_TRACKING_URI"), tracking_uri(root)
    mlflow.set_tracking_uri(uri)
    try:
        yield MlflowClient(uri)
    except (MlflowException, RequestException) as error:
        raise DataError(f"MLflow at {uri} refused: {reason(error)}. {remedy} once this is put right.") from error
    finally:
        mlflow.set_tracking_uri(given or "")  # it is kept in the environment, too
        if given is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)


@contextmanager
def existing(root: Path, remedy: str) -> Iterator[MlflowClient]:
    """`session` of a registry that is there, for those who read: it makes none."""
    require(root)
    with session(root, remedy) as client:
        yield client


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the lock of a repository's mlruns/ against other processes here."""
    (root / "mlruns").mkdir(parents=True, exist_ok=True)
    with (root / "mlruns/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def experiment(client: MlflowClient, name: str, root: Path) -> str:
    """The id of the experiment, made if it is missing, with a view of its runs that has columns of quality.

    Its artifacts go below `root`, whatever folder this runs in: DVC deletes that of an `exp run --temp`.
    """
    known = client.get_experiment_by_name(name)
    if known is None:
        location = (root.absolute() / "mlruns/artifacts").as_uri() if client.tracking_uri == own(root) else None
        return client.create_experiment(name, artifact_location=location, tags=KIND | {view.TAG: view.text()})
    if known.lifecycle_stage != "active":
        raise DataError(
            f"the MLflow experiment {name!r} is deleted; bring it back (`mlflow experiments restore -x "
            f"{known.experiment_id}`) or name another one in `registry.experiment`."
        )
    if view.TAG not in known.tags:
        client.set_experiment_tag(known.experiment_id, view.TAG, view.text())
    return known.experiment_id


def ensure_run(client: MlflowClient, experiment_id: str, record: Record) -> str:
    """The id of the run that has `record`'s digest: found whole, completed, or made."""
    runs = client.search_runs([experiment_id], filter_string=f"tags.`{DIGEST}` = '{record.digest}'")
    finished = [run for run in runs if run.info.status == FINISHED]
    if finished:
        return finished[0].info.run_id
    run = runs[0] if runs else _create(client, experiment_id, record)
    _log(client, run.info.run_id, run.info.start_time, record)
    client.set_terminated(run.info.run_id)
    return run.info.run_id


def _create(client: MlflowClient, experiment_id: str, record: Record) -> Run:
    """A new run, whose name no other one has: where only code or data differ, a part of the digest tells them apart."""
    name = record.name.replace('"', "'")
    if client.search_runs([experiment_id], filter_string=f'attributes.run_name = "{name}"', max_results=1):
        name = f"{name} #{record.digest[:6]}"
    return client.create_run(experiment_id, tags={DIGEST: record.digest}, run_name=name)


def _log(client: MlflowClient, run_id: str, time: int, record: Record) -> None:
    """Write all of `record` to a run. MLflow keeps equal params and metric points once, so this may be repeated."""
    params = [Param(key, redact(str(value))) for key, value in record.params.items()]
    points = [(key, value, 0) for key, value in metrics(record.evaluation, record.model).items()]
    points += [(f"time/{stage}_s", seconds, 0) for stage, seconds in record.seconds.items()]
    points += [(key, value, entry["step"]) for entry in record.curve for key, value in check(entry).items()]
    tags = [RunTag(key, redact(value)) for key, value in record.tags.items()]
    client.log_batch(run_id, tags=tags)
    for start in range(0, len(params), PARAMS_A_CALL):
        client.log_batch(run_id, params=params[start : start + PARAMS_A_CALL])
    for start in range(0, len(points), METRICS_A_CALL):
        batch = [Metric(key, value, time, step) for key, value, step in points[start : start + METRICS_A_CALL]]
        client.log_batch(run_id, metrics=batch)
    datasets = [
        DatasetInput(Dataset(name, digest[:36], "local", "{}"), [InputTag("mlflow.data.context", "training")])
        for name, digest in record.data.items()
    ]
    client.log_inputs(run_id, datasets)
    for folder, paths in record.files.items():
        for path in paths:
            if path.suffix == ".yaml":
                client.log_text(run_id, redact(path.read_text(encoding="utf-8")), str(Path(folder) / path.name))
            else:
                (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), folder)


def ensure_version(
    client: MlflowClient, experiment_id: str, run_id: str, model: str, bundle: Path, tags: dict[str, str]
) -> int:
    """The version of `model` that holds `bundle`, found by the bundle's digest or made from it.

    A new version is tagged with the bundle's digest and with one over all that MLflow stored, both read back from the
    store (`verified`). Versions from before there was the second are passed over.

    Args:
        run_id: the run that a new version is linked with.
        tags: of a new version.

    Raises:
        DataError: what the store gives back is not what was sent.
    """
    digest = read_json(bundle / "manifest.json")["bundle_sha256"]
    alike = client.search_model_versions(f"name = '{model}' and tags.`{BUNDLE}` = '{digest}'")
    whole = [int(version.version) for version in alike if MODEL in version.tags]
    if whole:
        return min(whole)
    logged = _logged_model(client, experiment_id, run_id, digest) or _log_model(run_id, bundle, digest)
    stored = {BUNDLE: digest, MODEL: _stored(logged, digest)}
    client.set_logged_model_tags(logged, stored)
    made = mlflow.register_model(f"models:/{logged}", model, tags={**tags, **stored})
    return int(made.version)


def _stored(model_id: str, bundle_sha256: str) -> str:
    """The digest over a logged model, as the store gives it back."""
    with TemporaryDirectory() as elsewhere:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{model_id}", dst_path=elsewhere))
        if verify(folder / "artifacts/bundle") != bundle_sha256:
            raise DataError(f"logged model {model_id} holds another bundle; delete it in MLflow and register again.")
        verified.same_code(folder)
        return verified.digest(folder)


def _logged_model(client: MlflowClient, experiment_id: str, run_id: str, digest: str) -> str | None:
    """The id of this bundle as a logged model of the run, where a registration was cut short just after it."""
    query = f"source_run_id = '{run_id}' AND tags.`{BUNDLE}` = '{digest}'"
    whole = None
    for logged in client.search_logged_models([experiment_id], filter_string=query):
        if logged.status == LoggedModelStatus.READY:
            whole = logged.model_id
        else:
            client.delete_logged_model(logged.model_id)
    return whole


def requirements(config: dict[str, Any]) -> list[str]:
    """The packages that serve a bundle with this config.json, pinned to what is installed here."""
    if "llm" not in config.get("towers", ["llm"]):
        names = [*WITHOUT_LLM]
    else:
        names = [*SERVING, *(["bitsandbytes"] if config["backbone"]["quantization"] != "none" else [])]
    names += ["faiss-cpu"] if config.get("index") else []
    return [f"{name}=={installed(name).partition('+')[0]}" for name in names]


def _log_model(run_id: str, bundle: Path, digest: str) -> str:
    asins = pl.read_parquet(bundle / "items.parquet")["parent_asin"].head(2)
    history = [{"parent_asin": asin, "timestamp": 1_391_040_000_000} for asin in asins]
    config = read_json(bundle / "config.json")
    with TemporaryDirectory() as elsewhere, mlflow.start_run(run_id=run_id):
        # MLflow runs the code that it is given, and Python leaves bytecode beside it: not so in the bundle, DVC's out.
        package = Path(shutil.copytree(bundle / "code/llmsrec", Path(elsewhere) / "llmsrec"))
        info = mlflow.pyfunc.log_model(
            name="bundle",
            python_model=str(package / "registry/pyfunc.py"),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(package)],
            pip_requirements=requirements(config),
            input_example=[{"history": history, "k": 1, "tower": "teacher"}],  # every version has it, and no torch
            metadata={BUNDLE: digest},  # for who loads it without the registry
            tags={BUNDLE: digest},
        )
    return info.model_id


def require_registered(root: Path, path: Path) -> dict[str, Any]:
    """What metrics/registered.json, at `path`, says: {name, version, run_id, bundle_sha256}.

    It is in git and the registry is not, so after a clone the registry may not have what it names.

    Raises:
        DataError: the registry has no such version and run, or another bundle under that number.
    """
    registered: dict[str, Any] = read_json(path)
    with existing(root, "Run the command again") as client:
        if not _holds(client, registered):
            raise DataError(
                f"{registered['name']} version {registered['version']} (run {registered['run_id']}), which {path} "
                f"names, is not in the registry at {client.tracking_uri}; {REMEDY}."
            )
    return registered


def _holds(client: MlflowClient, registered: dict[str, Any]) -> bool:
    try:
        version = client.get_model_version(registered["name"], str(registered["version"]))
        run = client.get_run(registered["run_id"])
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    same = version.tags.get(BUNDLE) == registered["bundle_sha256"]
    return same and run.info.lifecycle_stage == "active"


def bundle_of(text: str, root: Path) -> Path:
    """The bundle of a version, see `opened`."""
    return opened(text, root)[0]


def opened(text: str, root: Path) -> tuple[Path, str]:
    """The bundle of a version, brought here if it lies elsewhere, and which version that is now, such as `shop/3`.

    Args:
        text: any name of a version (`versions`); one without its model is of `registry.model`, or of llm-srec where
            there is no params.yaml.

    Raises:
        RequestError: it names no version, or there is none.
        DataError: no registry, or the version's artifacts are missing or not what was registered.
    """
    params = root / "params.yaml"
    unsaid = versions.split(text)[0] is None
    default = parameters.load(params).registry.model if unsaid and params.exists() else "llm-srec"
    with existing(root, "Run the command again") as client:
        version = versions.find(client, *versions.of(text, None, default))
        return verified.verified(client, version) / "artifacts/bundle", f"{version.name}/{version.version}"
