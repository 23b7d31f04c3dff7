"""The recommender as an MLflow model from code: MLflow runs this file where a version is loaded.

mlflow models serve -m models:/llm-srec@candidate --env-manager local
"""

import json
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# MLflow may run this where a version is stored, and with bytecode in it that is no longer what was registered.
sys.dont_write_bytecode = True
if __spec__ and __spec__.cached:
    with suppress(OSError):
        Path(__spec__.cached).unlink()
        Path(__spec__.cached).parent.rmdir()

# ruff: noqa: E402
from mlflow.exceptions import MlflowException
from mlflow.models import Model, set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel
from pydantic import BaseModel, ConfigDict, SkipValidation

from llmsrec.errors import DataError, RequestError
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import Answer, parse

log = logging.getLogger(__name__)


class Bought(BaseModel):
    """An event with the types of `Event` for the signature, where a time may be missing."""

    parent_asin: str
    timestamp: int | None = None


class Columns(BaseModel):
    """A filter with types that MLflow derives a signature from."""

    category: list[str] | None = None
    store: list[str] | None = None


class RawRequest(BaseModel):
    """A request as it was sent, with the types of `Request` for MLflow's signature; `predict` checks it.

    MLflow would answer a check that fails before `predict` with a dump of its types and of all that was sent.
    """

    model_config = ConfigDict(extra="allow")

    history: SkipValidation[list[Bought]] = None  # type: ignore[assignment]
    k: SkipValidation[int] = 10
    tower: SkipValidation[str | None] = None
    exclude_history: SkipValidation[bool | None] = None
    allow: SkipValidation[list[str] | None] = None
    block: SkipValidation[list[str]] = []
    filter: SkipValidation[Columns | None] = None
    diversity: SkipValidation[float] = 0.0
    explain: SkipValidation[bool] = False

    def sent(self) -> dict[str, Any]:
        """The fields that were sent, as they were sent."""
        return {name: value for name, value in self if name in self.model_fields_set}


class Refused(MlflowException):
    """An error whose answer holds our sentence alone: MLflow's server puts all that was sent before `message`."""

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": str(self.args[0])})


class BundleModel(PythonModel):
    """A bundle behind MLflow's scoring protocol; the types below are the model's signature."""

    def load_context(self, context: Any) -> None:
        """Open the bundle.

        Raises:
            DataError: it is not as it was sealed, or not the bundle that was registered.
        """
        bundle = Bundle.open(Path(context.artifacts["bundle"]))
        described = bundle.folder.parents[1] / "MLmodel"  # not there while the model is being logged
        metadata = Model.load(str(described)).metadata if described.is_file() else None
        registered = (metadata or {}).get("bundle_sha256", bundle.digest)
        if bundle.digest != registered:
            raise DataError(
                f"{bundle.folder} is the bundle {bundle.digest[:12]}, not {registered[:12]} that was registered; "
                "`dvc repro -f -s register` registers it anew."
            )
        self.recommender = Recommender(bundle)
        # A service is ready when it can answer; an image may have no torch, and the bundle nothing but that to run on.
        # While a model is logged MLflow loads it twice, before and after it is stored: once is enough for the backbone.
        if described.is_file() and self.recommender.runtime:
            self.recommender.warm()

    def predict(self, model_input: list[RawRequest]) -> list[Answer]:  # type: ignore[override]
        """Answer requests; every error becomes a status and one message, never a traceback."""
        try:
            return self.recommender.recommend(parse([request.sent() for request in model_input]))
        except RecursionError as error:
            raise Refused("the request is nested too deeply", error_code=INVALID_PARAMETER_VALUE) from error
        except RequestError as error:
            raise Refused(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        except DataError as error:
            raise Refused(str(error), error_code=TEMPORARILY_UNAVAILABLE) from error
        except Exception as error:
            log.exception("a request failed")
            raise Refused("the request failed; the service's log says why", error_code=INTERNAL_ERROR) from error


set_model(BundleModel())
