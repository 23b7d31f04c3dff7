"""The version that a service answers from: which one a URI stands for now, and its verified files.

This imports no more than what a serving image holds.
"""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A registry that is down is told of in seconds, and asked again soon.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from llmsrec.errors import DataError, LLMSRecError
from llmsrec.registry import verified, versions
from llmsrec.registry.greeting import greet

FIELDS = ("history", "tower", "k")  # what a signature must take: the service sends nothing else by default


@dataclass(frozen=True)
class Version:
    """A version of a model.

    Attributes:
        alias: by which it was asked for, if it was not by number.
        digest: `bundle_sha256`.
    """

    name: str
    number: str
    alias: str | None
    digest: str
    record: ModelVersion

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


class Registry:
    """What one URI of one registry stands for, asked again and again.

    Args:
        tracking_uri: of the registry.
        uri: `models:/<name>@<alias>`, which may move, or `models:/<name>/<number>`.
    """

    def __init__(self, tracking_uri: str, uri: str) -> None:
        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # they print what is raised anyway
        self._tracking_uri, self.uri = tracking_uri, uri
        mlflow.set_tracking_uri(tracking_uri)  # artifacts are brought from there
        self._client: MlflowClient | None = None

    def version(self) -> Version:
        """The version that the URI stands for now.

        Raises:
            RequestError: the URI names no version, whatever the registry holds.
            DataError: the registry does not answer, or holds no such version.
        """
        try:
            self._greet()
            self._client = self._client or MlflowClient(self._tracking_uri)
            version = verified.named(self._client, self.uri)
        except LLMSRecError:
            raise
        except Exception as error:  # a database's own errors, too
            raise DataError(
                f"{self.uri} cannot be had from {self._tracking_uri}: {_line(error)}; the MLflow UI names the "
                "versions and aliases, and `llmsrec promote` moves an alias."
            ) from error
        _, which = versions.split(self.uri)
        alias = None if which.isdigit() else which
        return Version(version.name, str(version.version), alias, version.tags.get(verified.BUNDLE, ""), version)

    def fetch(self, version: Version, into: Path) -> Path:
        """The bundle of a version, copied into an empty folder and found to be what was registered.

        Raises:
            DataError: it is not, it cannot be read, or its signature is of another model than a recommender.
        """
        assert self._client, "`version` gave the version"
        try:
            folder = verified.verified(self._client, version.record, into)
            _check_signature(str(version), Model.load(str(folder)))
        except LLMSRecError:
            raise
        except (MlflowException, requests.RequestException, OSError) as error:
            raise DataError(f"{version} cannot be brought from {self._tracking_uri}: {_line(error)}") from error
        return folder / "artifacts/bundle"

    def _greet(self) -> None:
        """Raise DataError if the registry is a server that is down."""
        uri = self._tracking_uri
        if not uri.startswith(("http://", "https://")):
            return
        try:
            greet(uri)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise DataError(f"the registry at {uri} does not answer ({type(error).__name__}): start it") from error


def _check_signature(name: str, model: Model) -> None:
    described: Any = model.signature and model.signature.inputs and json.loads(model.signature.inputs.to_json())
    properties = described[0].get("properties", {}) if described and isinstance(described[0], dict) else {}
    missing = [field for field in FIELDS if field not in properties]
    if missing:
        raise DataError(f"{name}: its signature has no {', '.join(missing)}, so it is not a recommender's")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
