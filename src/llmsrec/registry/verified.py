"""A version's folder, brought from the registry and compared with what was registered before any of it is run.

Registration notes two digests in the version's tags: that of the bundle, and one over all that MLflow stored, the code
that it runs included. Who can write to the artifact store, but not to the registry itself, cannot change both. This
imports no more than what a serving image holds, as docker/serve.py begins with it.
"""

import atexit
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llmsrec.errors import DataError
from llmsrec.files import sha256, tree
from llmsrec.registry import versions
from llmsrec.serving.bundle import verify

BUNDLE, MODEL = "bundle_sha256", "model_sha256"
META = "registered_model_meta"  # MLflow writes this file, with name and number, wherever a version is read
ANEW = "`dvc repro -f -s register` registers it from its files, as a version of its own"


def named(client: MlflowClient, text: str) -> ModelVersion:
    """The version that a name stands for now (`versions`), such as `models:/shop@staging`.

    Raises:
        RequestError: it names no version.
        MlflowException: there is no such version.
    """
    return versions.get(client, *versions.of(text, None, None))


def verified(client: MlflowClient, version: ModelVersion, into: Path | None = None) -> Path:
    """A version's folder as MLflow stored it (`artifacts/bundle`, `code`, `pyfunc.py`, ...), once `check` has passed.

    Args:
        into: an empty folder for a copy, which nobody else can change after the check; None for the store's own folder
            where it lies on this machine, and else a new temporary folder.

    Raises:
        DataError: the version has no digest on record, its artifacts are missing, or they are not what was registered.
    """
    name = f"{version.name} version {version.version}"
    _digests(name, version.tags)  # what cannot be judged need not be brought
    try:
        folder = _bring(client, version, into)
    except (MlflowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{name}: its artifacts cannot be read: {reason}. {ANEW}.") from error
    check(name, folder, version.tags)
    return folder


def check(name: str, folder: Path, tags: dict[str, str]) -> None:
    """Compare a folder as MLflow stored it with the digests in its version's (or logged model's) tags.

    Raises:
        DataError: a file is missing, altered, added, a link or bytecode; where it can be, it is named.
    """
    bundle_sha256, model_sha256 = _digests(name, tags)
    bundle = folder / "artifacts/bundle"
    try:
        sealed = verify(bundle)
        if sealed != bundle_sha256:
            raise DataError(f"the bundle is {sealed[:12]}, not {bundle_sha256[:12]} that was registered. {ANEW}.")
        same_code(folder)
        if digest(folder) != model_sha256:
            raise DataError(
                f"its files beside the bundle (MLmodel, requirements, examples) are not those that were registered "
                f"({MODEL} {model_sha256[:12]}). {ANEW}."
            )
    except DataError as error:
        reason = str(error).replace(f"{bundle}: ", "").replace(f"{bundle} ", "the bundle ").replace(f"{folder}/", "")
        raise DataError(f"{name} is not what was registered, so nothing of it was run: {reason}") from error


def digest(folder: Path) -> str:
    """One digest over the names and contents of all files that MLflow stored of a model.

    Raises:
        DataError: see `llmsrec.files.tree`.
    """
    files = tree(folder)
    files.pop(META, None)
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def same_code(folder: Path) -> None:
    """Raise DataError unless the code that MLflow runs is the bundle's, which its manifest lists."""
    ours = folder / "artifacts/bundle/code/llmsrec"
    if not (folder / "pyfunc.py").is_file() or sha256(folder / "pyfunc.py") != sha256(ours / "registry/pyfunc.py"):
        raise DataError(f"pyfunc.py, which MLflow runs, is not the code in the bundle. {ANEW}.")
    code = folder / "code"
    files = tree(code) if code.is_dir() else {}
    expected = {f"llmsrec/{name}": digest for name, digest in tree(ours).items()}
    for name in sorted({*files, *expected}):
        if files.get(name) != expected.get(name):
            raise DataError(f"code/{name}, which MLflow runs, is not the code in the bundle. {ANEW}.")


def _digests(name: str, tags: dict[str, str]) -> tuple[str, str]:
    for tag in (BUNDLE, MODEL):
        if tag not in tags:
            raise DataError(f"{name} has no tag {tag}, so what was registered is not known; {ANEW}.")
    return tags[BUNDLE], tags[MODEL]


def _bring(client: MlflowClient, version: ModelVersion, into: Path | None) -> Path:
    location = _location(client, version)
    url = urlparse(location)
    if url.scheme in ("", "file"):
        store = Path(unquote(url.path) if url.scheme else location)  # a plain path may hold a `%` or a `#`
        # MLflow would copy what a link points to, and nobody would see that it is one.
        return store if into is None else Path(shutil.copytree(store, into, symlinks=True, dirs_exist_ok=True))
    if into is None:
        into = Path(tempfile.mkdtemp(prefix="llmsrec-"))
        atexit.register(shutil.rmtree, into, ignore_errors=True)
    into.mkdir(parents=True, exist_ok=True)
    uri = f"models:/{version.name}/{version.version}"
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into)))


def _location(client: MlflowClient, version: ModelVersion) -> str:
    """Where a version's files lie: MLflow notes the logged model that it was made from, or a place."""
    source = str(client.get_model_version_download_uri(version.name, version.version))
    logged = re.fullmatch(r"models:/([^/@]+)", source)
    return str(client.get_logged_model(logged[1]).artifact_location) if logged else source
