"""Requests and answers: the types that MLflow's signature, the service and the command line share."""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llmsrec.errors import RequestError, shown
from llmsrec.serving import limits
from llmsrec.times import OUTSIDE, are_ms

Tower = Literal["llm", "cf", "teacher"]
TOWERS: tuple[str, ...] = get_args(Tower)


class Strict(BaseModel):
    """Unknown fields are errors, and a string is never taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Event(Strict):
    """An item that the user bought or reviewed, and when (ms since epoch)."""

    parent_asin: str = Field(max_length=limits.ID)
    timestamp: int

    @field_validator("timestamp")
    @classmethod
    def timestamp_is_ms(cls, value: int) -> int:
        if not are_ms(value):
            raise ValueError(OUTSIDE)
        return value


class Request(Strict):
    """One user's history, in any order, and how many items to recommend.

    `tower` says what reads the history: `llm` is the prompt through the backbone and `f_user`; `cf` is SASRec and
    `f_cf_user`, which needs no LLM; `teacher` is SASRec itself with its own item vectors.
    """

    history: list[Event] = Field(max_length=limits.HISTORY)
    k: int = Field(default=10, ge=1, le=limits.ITEMS)
    tower: str = "llm"  # not `Tower`: MLflow derives no signature from a Literal

    @field_validator("tower")
    @classmethod
    def tower_is_known(cls, value: str) -> str:
        if value not in TOWERS:
            raise ValueError(f"must be one of {', '.join(TOWERS)}")
        return value


class Recommendation(BaseModel):
    """A recommended item; `score` is the dot product of user and item vector (of `popular`: the item's events)."""

    parent_asin: str
    title: str
    score: float


class Answer(BaseModel):
    """The answer to one request.

    Attributes:
        items: best first, at most `k`, none of them in the history (but of a model trained with data.repeats `keep`).
        used: known, distinct items of the history, or with `keep` its events with known items. A tower reads the last
            of them, as many as it was trained with.
        unknown: items of the history that the catalogue does not have, oldest first.
        fallback: `popular` where no item of the history is known: the items are then the most popular ones.
    """

    items: list[Recommendation]
    used: int
    unknown: list[str]
    fallback: str | None = None


def parse(values: Any) -> list[Request]:
    """Check requests as JSON gives them.

    Raises:
        RequestError: not a list, more than `limits.REQUESTS`, or a field that is missing, unknown, of the wrong type or
            out of range; the first request with such a field is named, and up to five of its fields.
    """
    if not isinstance(values, list):
        raise RequestError(f'requests are {type(values).__name__}, not a list; send `[{{"history": [...]}}, ...]`.')
    limits.check_count(len(values))
    return [_parse_one(value, f"request {number}") for number, value in enumerate(values)]


def _parse_one(value: Any, where: str) -> Request:
    try:
        return Request.model_validate(value)
    except ValidationError as error:
        raise RequestError(f"{where}, {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    """What is wrong with a request: each field by name, its value, the reason; at most five of them."""
    return "; ".join(_problem(problem) for problem in error.errors()[:5])


LONGEST_NAME = 60  # characters of a field that is shown


def _problem(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "the whole"
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}..."
    if problem["type"] == "missing":
        return f"`{name}` is missing"
    if problem["type"] == "extra_forbidden":
        what, fields = ("a request", Request) if len(problem["loc"]) == 1 else ("an event", Event)
        return f"`{name}` is not a field of {what}, whose fields are {', '.join(fields.model_fields)}"
    return f"`{name}` is {shown(problem['input'])}: {problem['msg'].removeprefix('Value error, ')}"
