"""The recommender as an MLflow model from code: MLflow runs this file where a version is loaded.

mlflow models serve -m models:/llm-srec@candidate --env-manager local
"""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel
from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator

from llmsrec.errors import DataError, RequestError
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import Answer, Request, explain

log = logging.getLogger(__name__)


class Asked(Request):
    """A request whose errors are ours: MLflow would answer with a dump of the types and of all that was sent."""

    @model_validator(mode="wrap")
    @classmethod
    def explained(cls, value: Any, check: ModelWrapValidatorHandler["Asked"]) -> "Asked":
        try:
            return check(value)
        except ValidationError as error:
            raise MlflowException(explain(error), error_code=INVALID_PARAMETER_VALUE) from error


class BundleModel(PythonModel):
    """A bundle behind MLflow's scoring protocol; the types below are the model's signature."""

    def load_context(self, context: Any) -> None:
        self.recommender = Recommender.load(Path(context.artifacts["bundle"]))
        # A service is ready when it can answer; an image for the `cf` tower alone has no torch.
        if find_spec("torch"):
            self.recommender.warm()

    def predict(self, model_input: list[Asked]) -> list[Answer]:  # type: ignore[override]
        """Answer requests; every error becomes a status and one message, never a traceback."""
        try:
            return self.recommender.recommend(model_input)
        except RequestError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        except DataError as error:
            raise MlflowException(str(error), error_code=TEMPORARILY_UNAVAILABLE) from error
        except Exception as error:
            log.exception("a request failed")
            raise MlflowException(
                "the request failed; the service's log says why", error_code=INTERNAL_ERROR
            ) from error


set_model(BundleModel())
