"""How a person names a version: `5` or `staging` of the model at hand, `shop/5`, `shop@staging`, `models:/shop/5`.

This imports no more than what a serving image holds.
"""

import re

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llmsrec.errors import RequestError, shown

URI = "models:/"
FORMS = "a version is named by its number or an alias, such as 5 or staging, or shop/5, shop@staging, models:/shop/5"


def read(text: str) -> tuple[str | None, str] | None:
    """The registered model (None where the text does not say) and the number or alias; None for any other text."""
    if text and not re.search(r"[/@:]", text):
        return None, text
    named = re.fullmatch(rf"(?:{URI})?([^/@:]+)(?:/(\d+)|@([^/@:]+))", text)
    return (named[1], named[2] or named[3]) if named else None


def split(text: str) -> tuple[str | None, str]:
    """What `read` returns.

    Raises:
        RequestError: the text names no version.
    """
    if (parts := read(text)) is None:
        raise RequestError(f"{shown(text)} names no version; {FORMS}.")
    return parts


def of(text: str, model: str | None, default: str | None) -> tuple[str, str]:
    """`split` where the model may be said beside it.

    Args:
        model: what `--model` says: a model, or a version of it.
        default: the model of a version that is named without one, `registry.model`; None where there is none.

    Raises:
        RequestError: the two contradict each other, or nothing says which model.
    """
    said, which = split(text)
    if model is not None:
        beside, other = of_model(model)
        if (said is not None and said != beside) or other not in (None, which):
            raise RequestError(f"{text} is not what --model {model} says; leave one of them out.")
        said = beside
    if said is None and default is None:
        raise RequestError(f"{shown(text)} does not say of which model, and no params.yaml here does; {FORMS}.")
    return str(said or default), which


def of_model(text: str) -> tuple[str, str | None]:
    """The registered model that `shop`, or any name of a version with its model, is about; and the number or alias.

    Raises:
        RequestError: neither.
    """
    plain = text.removeprefix(URI)
    if re.fullmatch(r"[^/@:]+", plain):
        return plain, None
    model, which = split(text)
    return str(model), which


def get(client: MlflowClient, model: str, which: str) -> ModelVersion:
    """A version by its number or by an alias, as MLflow says it.

    Raises:
        MlflowException: there is none, or the registry refuses.
    """
    by = client.get_model_version if re.fullmatch(r"\d+", which) else client.get_model_version_by_alias
    return by(model, which)


def find(client: MlflowClient, model: str, which: str) -> ModelVersion:
    """A version by its number or by an alias.

    Raises:
        RequestError: there is none; those that there are are named.
    """
    try:
        return get(client, model, which)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        numbers = sorted(int(version.version) for version in client.search_model_versions(f"name = '{model}'"))
        if not numbers:
            raise RequestError(f"{model} has no versions yet; run `dvc repro`.") from error
        raise RequestError(
            f"{model} has no version or alias {which!r}; versions: {', '.join(map(str, numbers[-10:]))}; "
            f"aliases: {aliases(client, model)}."
        ) from error


def aliases(client: MlflowClient, model: str) -> str:
    """All aliases of a model with their versions, for a message."""
    versions = client.get_registered_model(model).aliases
    return ", ".join(f"{alias} ({version})" for alias, version in sorted(versions.items())) or "none"
