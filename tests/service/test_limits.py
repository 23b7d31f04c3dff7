"""The middleware alone, before an app that says what it was sent."""

import asyncio
import json
from typing import Any

import pytest

from llmsrec.service import limits
from llmsrec.service.limits import Limits

GOOD = {"inputs": [{"history": [{"parent_asin": "B1", "timestamp": 1}], "k": 3}]}
SECRET = "what-was-sent"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body it gets, as status 200."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def fails(status: int, body: bytes) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    return app


def call(body: bytes, kind: str | None = "application/json", app: Any = echo, path: str = "/invocations") -> Any:
    """Status and body of what Limits sends back; the body arrives in pieces."""
    pieces = [body[start : start + 2**20] for start in range(0, len(body), 2**20)] or [b""]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if kind is None else [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(Limits(app)(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(message["body"] for message in sent[1:]))


def test_a_request_passes_unchanged() -> None:
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"):
        assert call(json.dumps(GOOD).encode(), kind) == (200, GOOD)
    assert call(b"[]", None, path="/other") == (200, [])


def nested(levels: int) -> bytes:
    return b'{"inputs": [{"history": ' + b"[" * levels + b"]" * levels + b"}]}"


BAD = {
    "text/csv": (415, b"a,b\n1,2", "text/csv", "the content type is not application/json"),
    "no type": (415, json.dumps(GOOD).encode(), None, "the content type is not application/json"),
    "another charset": (415, json.dumps(GOOD).encode(), "application/json; charset=latin-1", "in UTF-8"),
    "too large": (413, b" " * (limits.BYTES + 1), "application/json", "the body is larger than 8,388,608 bytes"),
    "far too large": (413, b" " * (limits.BYTES * 20), "application/json", "the body is larger than"),
    "empty": (400, b"", "application/json", "the body is not JSON"),
    "not UTF-8": (400, b'{"inputs": "\xff"}', "application/json", "the body is not UTF-8: byte 12"),
    "cut": (400, b'{"inputs": [{"history": "what-was-sent"', "application/json", "the body is not JSON"),
    "very deep": (400, nested(200_000), "application/json", "the body is nested too deeply"),
    "deep": (400, nested(4), "application/json", "the body is nested too deeply"),
    "many digits": (400, b'{"inputs": [{"k": 1' + b"0" * 4400 + b"}]}", "application/json", "too many digits"),
    "a list": (400, b"[]", "application/json", "the body is not an object with `inputs`"),
    "instances": (400, b'{"instances": [{"k": "what-was-sent"}]}', "application/json", "not an object with `inputs`"),
    "split": (400, b'{"dataframe_split": {"columns": ["what-was-sent"]}}', "application/json", "not an object with"),
    "records": (400, b'{"dataframe_records": [{"history": 1}]}', "application/json", "not an object with `inputs`"),
    "params": (400, b'{"inputs": [], "params": {"a": 1}}', "application/json", "not an object with `inputs`"),
    "a text": (400, b'{"inputs": "what-was-sent"}', "application/json", "not an object with `inputs`, a list"),
    "texts": (400, b'{"inputs": [{"history": []}, "what-was-sent"]}', "application/json", "request 1 is not an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_body_that_cannot_be_meant_is_one_sentence_that_repeats_nothing(case: str) -> None:
    status, body, kind, expected = BAD[case]
    answered, answer = call(body, kind, app=None)
    assert (answered, set(answer)) == (status, {"error_code", "message"})
    assert expected in answer["message"] and "\n" not in answer["message"]
    assert SECRET not in answer["message"] and len(answer["message"]) < 300


@pytest.mark.parametrize("levels", range(7))
def test_depth_against_counting_brackets(levels: int) -> None:
    value: Any = 1
    for level in range(levels):
        value = [0, value] if level % 2 else {"a": value, "b": 1}
    assert limits.deeper(value, 4) is (levels > 4)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, {"error_code": "BAD_REQUEST", "message": "first\nsecond", "stack_trace": "File x"}, "first"),
        (
            400,
            {"error_code": "E", "message": f"Failed to predict data '{SECRET}\nError: {SECRET}'. \nError: why"},
            "why",
        ),
        (500, "Internal Server Error", "Internal Server Error"),
        (504, "", "the request failed; the service's log says why"),
        (400, {"error_code": "E", "message": "x" * 10_000}, "x" * 500),
    ],
)
def test_an_error_of_the_server_behind_is_its_first_sentence(status: int, body: Any, said: str) -> None:
    raw = body if isinstance(body, str) else json.dumps(body)
    answered, answer = call(json.dumps(GOOD).encode(), app=fails(status, raw.encode()))
    assert (answered, set(answer), answer["message"]) == (status, {"error_code", "message"}, said)
