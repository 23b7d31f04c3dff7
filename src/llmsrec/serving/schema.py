"""Requests and answers: the types that MLflow's signature, the service and the command line share."""

import time
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from llmsrec.errors import RequestError, in_words, shown
from llmsrec.serving import limits
from llmsrec.times import EARLIEST, LATEST, OUTSIDE, are_ms, of_iso

Tower = Literal["llm", "cf", "teacher", "blend"]
TOWERS: tuple[str, ...] = get_args(Tower)
Id = Annotated[str, Field(max_length=limits.ID)]
TIME_EXAMPLE = "must be ms since 1970, or a date or time such as 2014-01-30 or 2014-01-30T12:00:00Z"


class Strict(BaseModel):
    """Unknown fields are errors, and a string is never taken for a number.

    Attributes:
        NAME: what messages call it.
    """

    NAME: ClassVar[str] = "a request"
    model_config = ConfigDict(extra="forbid", strict=True)


def _time_schema(schema: dict[str, Any]) -> None:
    """A time as it may be sent: `Event` itself knows ms alone, and `in_order` those that are missing."""
    schema["required"].remove("timestamp")
    title = schema["properties"]["timestamp"]["title"]
    schema["properties"]["timestamp"] = {
        "title": title,
        "description": "ms since epoch, or ISO 8601 (UTC without a zone); of all events of a history, or of none",
        "anyOf": [{"type": "integer", "minimum": EARLIEST, "maximum": LATEST}, {"type": "string"}, {"type": "null"}],
    }


def whole(value: Any) -> Any:
    """A number such as 10.0, as some clients write all of theirs, as an int; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_ms(value: Any) -> Any:
    """A time in ISO 8601 as ms since epoch; what is no text stays as it is.

    Raises:
        ValueError: the text is no time.
    """
    if not isinstance(value, str):
        return whole(value)
    if (ms := of_iso(value)) is None:
        raise ValueError(TIME_EXAMPLE)
    return ms


Whole = Annotated[int, BeforeValidator(whole)]
Sent = TypeVar("Sent", bound=Strict)


class Event(Strict):
    """An item that the user bought or reviewed, and when: ms since epoch, or ISO 8601, which is read as ms."""

    NAME = "an event"
    model_config = ConfigDict(json_schema_extra=_time_schema)

    parent_asin: Id
    timestamp: Annotated[int, BeforeValidator(as_ms)]

    @field_validator("timestamp")
    @classmethod
    def timestamp_is_ms(cls, value: int) -> int:
        if not are_ms(value):
            raise ValueError(OUTSIDE)
        return value


def in_order(history: Any, present: int | None = None) -> Any:
    """A history none of whose events has a time, with the present for each, so that they stay in their order.

    Args:
        present: ms since epoch; None for now.
    """
    if not isinstance(history, list) or not all(isinstance(event, dict) for event in history):
        return history
    if any(event.get("timestamp") is not None for event in history):
        return history
    now = int(time.time() * 1000) if present is None else present
    return [{**event, "timestamp": now} for event in history]


Events = Annotated[list[Event], BeforeValidator(lambda history: in_order(history))]


class Filter(Strict):
    """What items must have: one of the categories that are listed, at any depth, and one of the stores."""

    NAME = "a filter"

    category: list[Id] | None = Field(default=None, min_length=1, max_length=limits.VALUES)
    store: list[Id] | None = Field(default=None, min_length=1, max_length=limits.VALUES)


class Request(Strict):
    """One user's history, in any order, and how many items to recommend.

    `tower` says what reads the history: `llm` is the prompt through the backbone and `f_user`; `cf` is SASRec and
    `f_cf_user`, which needs no LLM; `teacher` is SASRec itself with its own item vectors; `blend` is the sum of the
    scores of `llm` and `teacher`, weighed as is best on validation. Without it, it is `llm`, or `teacher` where the
    model is a sequential recommender by itself.

    `exclude_history` says whether items of the history are left out; without it, the model's own rule holds: they are,
    unless it was trained on data that keep repeats. `allow` and `block` are ids, `filter` columns of the catalogue.
    `diversity`, 0 to 1, gives up score for items that are unlike one another. `explain` names the item of the history
    that each recommended item is nearest to, and of `blend` what each tower gives to its score.
    """

    history: Events = Field(max_length=limits.HISTORY)
    k: Whole = Field(default=10, ge=1, le=limits.ITEMS)
    tower: str | None = None  # not `Tower`: MLflow derives no signature from a Literal
    exclude_history: bool | None = None
    allow: list[Id] | None = Field(default=None, min_length=1, max_length=limits.LISTED)
    block: list[Id] = Field(default=[], max_length=limits.LISTED)
    filter: Filter | None = None
    diversity: float = Field(default=0.0, ge=0, le=1)
    explain: bool = False

    @field_validator("tower")
    @classmethod
    def tower_is_known(cls, value: str | None) -> str | None:
        if value is not None and value not in TOWERS:
            raise ValueError(f"must be one of {', '.join(TOWERS)}")
        return value

    @field_validator("diversity")
    @classmethod
    def few_are_diverse(cls, value: float, info: Any) -> float:
        if value and info.data.get("k", 1) > limits.DIVERSE:
            raise ValueError(f"with it, `k` is at most {limits.DIVERSE}")
        return value


class Rank(Strict):
    """One user's history, and items to put in order: those of the history, too, if they are candidates."""

    NAME = "a request to /rank"

    history: Events = Field(max_length=limits.HISTORY)
    candidates: list[Id] = Field(min_length=1, max_length=limits.LISTED)
    tower: str | None = None
    explain: bool = False

    tower_is_known = field_validator("tower")(Request.tower_is_known.__func__)  # type: ignore[attr-defined]

    def request(self) -> Request:
        """The same as a request for recommendations."""
        return Request(
            history=self.history, k=len(self.candidates), tower=self.tower, exclude_history=False,
            allow=self.candidates, explain=self.explain,
        )  # fmt: skip


class Similar(Strict):
    """An item of the catalogue, or the title of any item, and how many items like it to name."""

    NAME = "a request to /similar"
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": "string"}}} for name in ("parent_asin", "title")
            ]
        }
    )

    parent_asin: Id | None = None
    title: str | None = Field(default=None, min_length=1, max_length=limits.TEXT, pattern=r"\S")
    k: Whole = Field(default=10, ge=1, le=limits.ITEMS)
    allow: list[Id] | None = Field(default=None, min_length=1, max_length=limits.LISTED)
    block: list[Id] = Field(default=[], max_length=limits.LISTED)
    filter: Filter | None = None

    @model_validator(mode="after")
    def names_one(self) -> Self:
        if (self.parent_asin is None) == (self.title is None):
            raise ValueError("one of `parent_asin` and `title` must be given, and not both")
        return self

    @property
    def tower(self) -> str:
        """The tower that answers: a title is read by the language model, an item has its vector."""
        return "cf" if self.title is None else "llm"


class Reason(BaseModel):
    """The item of a history that an item is nearest to, by the cosine of their vectors."""

    parent_asin: str
    title: str
    similarity: float


class Shares(BaseModel):
    """What the scores of two towers give to that of their blend, which is their sum."""

    llm: float
    teacher: float


class Recommendation(BaseModel):
    """A recommended item; `score` is the dot product of user and item vector (of `popular`: the item's events).

    `because`, and of the tower `blend` `shares`, are there if `explain` was asked for, and an item of the history is
    known.
    """

    parent_asin: str
    title: str
    score: float
    because: Reason | None = Field(default=None, exclude_if=lambda value: value is None)
    shares: Shares | None = Field(default=None, exclude_if=lambda value: value is None)


class Answer(BaseModel):
    """The answer to one request.

    Attributes:
        items: best first (with `diversity`: in the order chosen), at most `k`, none of them in the history unless
            `exclude_history` is false or the model was trained with data.repeats `keep`.
        used: known, distinct items of the history, or with `keep` its events with known items. A tower reads the last
            of them, as many as it was trained with.
        unknown: items of the history that the catalogue does not have, or that were added to it by title and that the
            tower cannot read, oldest first.
        fallback: `popular` where no item of the history is known: the items are then the most popular ones.
        unknown_candidates: ids of `allow` (of /rank: `candidates`) that the catalogue does not have, or for `teacher`
            were added to it by title; only where there are such.
    """

    items: list[Recommendation]
    used: int
    unknown: list[str]
    fallback: str | None = None
    unknown_candidates: list[str] | None = Field(default=None, exclude_if=lambda value: value is None)


class Neighbours(BaseModel):
    """The items most like the one asked for, without itself; `score` is the cosine of their vectors."""

    items: list[Recommendation]


def parse(values: Any) -> list[Request]:
    """Check requests as JSON gives them.

    Raises:
        RequestError: not a list, more than `limits.REQUESTS`, or a field that is missing, unknown, of the wrong type or
            out of range; the first request with such a field is named, and up to five of its fields.
    """
    if not isinstance(values, list):
        raise RequestError(f'requests are {type(values).__name__}, not a list; send `[{{"history": [...]}}, ...]`.')
    limits.check_count(len(values))
    return [_parsed(Request, value, f"request {number}") for number, value in enumerate(values)]


def parse_rank(value: Any) -> Request:
    """Check a request to /rank as JSON gives it; the errors of `parse`."""
    return _parsed(Rank, value, "the request").request()


def parse_similar(value: Any) -> Similar:
    """Check a request to /similar as JSON gives it; the errors of `parse`."""
    return _parsed(Similar, value, "the request")


def _parsed(kind: type[Sent], value: Any, where: str) -> Sent:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise RequestError(f"{where}, {_explain(kind, error)}") from error


def _explain(kind: type[Strict], error: ValidationError) -> str:
    """What is wrong with a request: each field by name, its value, the reason; at most five of them."""
    return "; ".join(_problem(kind, problem) for problem in error.errors()[:5])


LONGEST_NAME = 60  # characters of a field that is shown


def _problem(kind: type[Strict], problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "the whole"
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}..."
    if problem["type"] == "extra_forbidden":
        inner: dict[Any, type[Strict]] = {"history": Event, "filter": Filter}
        part = inner.get(problem["loc"][0], kind) if len(problem["loc"]) > 1 else kind
        return f"`{name}` is not a field of {part.NAME}, whose fields are {', '.join(part.model_fields)}"
    if name.endswith(".timestamp") and (problem["type"] == "missing" or problem["input"] is None):
        return f"`{name}` is missing; give each event of a history a time, or none of them"
    if problem["type"] == "missing":
        return f"`{name}` is missing"
    message = in_words(problem)
    if not problem["loc"] and isinstance(problem["input"], dict):
        return message  # of all fields together: they are not sent back
    return f"`{name}` is {shown(problem['input'])}: {message}"
