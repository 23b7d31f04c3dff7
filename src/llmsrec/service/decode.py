"""From a body to a call: a request that cannot be meant is answered here, in one sentence, before it costs anything.

What a request may hold is `llmsrec.serving.schema`'s and `limits`' business, and the version checks it. Here stands
what comes before: the body's size, type, form and depth.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Hold = Callable[[int], bool]  # whether so many bytes of a body may be held

BYTES = 8 * 2**20  # of a body; `limits.EVENTS` events of common ids are about 3 MB
HELD = 64 * 2**20  # bytes of all bodies together, beyond the first SMALL of each
DRAINED = 8  # so many times BYTES are read and dropped, so that who sends too much hears why
SMALL = 2**16  # bytes of a body that is read between two others; a larger one is read in a thread
DEPTH = 5  # {"inputs": [{"history": [{...}]}]}; a request by itself lies two less deep
INVOCATIONS, RANK, SIMILAR = "/invocations", "/rank", "/similar"
USERS, OF_USER = "/users/{id}", "/users/"
EVENTS = '"history": [{"parent_asin": "...", "timestamp": ...}]'
FORMS = {
    INVOCATIONS: f'send {{"inputs": [{{{EVENTS}, "k": 10, "tower": "llm"}}]}}',
    RANK: f'send {{{EVENTS}, "candidates": ["...", "..."], "tower": "llm"}}',
    SIMILAR: 'send {"parent_asin": "...", "k": 10} or {"title": "...", "k": 10}',
    USERS: 'send {"k": 10, "tower": "llm"}',
}
# Keys as they stand in a body's text. Within a string their quotes would be escaped, so what is found is part of none;
# a key that is itself written with escapes is not found.
TOWER, TITLE = re.compile(rb'"tower"\s*:\s*"(\w{1,20})"'), re.compile(rb'"title"\s*:\s*"')


# Reads large bodies one after the other: as Python's objects each is up to twenty times as large.
reader = ThreadPoolExecutor(1, "decode")


class Refused(Exception):
    """A request that is answered here: a status and one sentence, which repeats nothing of what was sent."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}

    @classmethod
    def overloaded(cls, after_s: int) -> "Refused":
        """More waits than may wait, or than can be answered in time."""
        return cls(429, f"too many requests wait already; try again in {after_s} s", {"retry-after": str(after_s)})


@dataclass(frozen=True)
class Call:
    """A body that is a call of some requests.

    Attributes:
        body: as it was sent.
        towers: what each request says of its tower, which may be nonsense; None where it says nothing.
        requests: those with a history, as they were sent.
        path: where to; only a call to INVOCATIONS can be of more or fewer requests than one.
        alone: a call to INVOCATIONS that is answered as one elsewhere is.
    """

    body: bytes
    towers: list[Any]
    requests: list[dict[str, Any]]
    path: str = INVOCATIONS
    alone: bool = False


class Bodies:
    """Counts the bytes of bodies that are held, from their arrival to the answer.

    The first SMALL bytes of each are free, so that common calls are never refused for what others send.
    """

    def __init__(self) -> None:
        self.held = 0

    @contextlib.contextmanager
    def holding(self) -> Iterator[Hold]:
        """For one body, as long as the block runs."""
        mine = 0

        def hold(size: int) -> bool:
            nonlocal mine
            more = max(0, size - SMALL) - mine
            if self.held + more > HELD:
                return False
            mine += more
            self.held += more
            return True

        try:
            yield hold
        finally:
            self.held -= mine


async def read(receive: Receive, seconds: float, hold: Hold) -> bytes | None:
    """The whole body; None where the client has gone.

    Args:
        hold: of `Bodies.holding`.

    Raises:
        Refused: it is larger than BYTES, or not there after so many seconds, or may not be held.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, hold)
    except TimeoutError as error:
        message = f"the body was not there after {seconds:g} s; send it faster, or in several calls"
        raise Refused(408, message, {"connection": "close"}) from error


async def _read(receive: Receive, hold: Hold) -> bytes | None:
    parts, size, more, kept = [], 0, True, True
    while more and size <= DRAINED * BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        kept = kept and size <= BYTES and hold(size)
        if kept:
            parts.append(part)
        else:
            parts.clear()
    headers = {"connection": "close"} if more else {}
    if size > BYTES:
        raise Refused(413, f"the body is larger than {BYTES:,} bytes; send the requests in several calls", headers)
    if not kept:
        raise Refused(429, "too many large bodies are being read; try again in 1 s", headers | {"retry-after": "1"})
    return b"".join(parts)


def form_of(path: str) -> str:
    """The path without the user whom it may name, as in FORMS; also what a log may say of it."""
    return USERS if path.startswith(OF_USER) else path


def check_headers(content_type: str, encoding: str) -> None:
    """Raise Refused for another content type than JSON in UTF-8, and for a body that is compressed."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind != "application/json" or any(p.replace('"', "") not in ("charset=utf-8", "") for p in parameters):
        raise Refused(415, "the content type is not application/json in UTF-8, the only one that is read here")
    if encoding.strip().lower() not in ("", "identity"):
        raise Refused(415, "the body is compressed (content-encoding), which is not read here; send it as it is")


def glance(body: bytes, path: str) -> list[str | None]:
    """`Call.towers` of a body, each once, as far as its text shows them without being read as JSON."""
    if path == SIMILAR:
        return ["llm" if TITLE.search(body) else "cf"]
    return [*sorted({name.decode() for name in TOWER.findall(body)})] or [None]


async def decode(body: bytes, path: str = INVOCATIONS) -> Call:
    """Read a body; large ones in a thread, so that others need not wait."""
    if len(body) <= SMALL:
        return decoded(body, path)
    return await asyncio.get_running_loop().run_in_executor(reader, decoded, body, path)


def decoded(body: bytes, path: str = INVOCATIONS) -> Call:
    """Read a body.

    Raises:
        Refused: it is not `{"inputs": [{...}, ...]}`, or elsewhere than at INVOCATIONS `{...}`, nested no deeper than
            requests are, each key once.
    """
    form = FORMS[path]
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=partial(_object, form), parse_constant=partial(_constant, form)
        )
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8: byte {error.start} cannot be read") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refused(400, f"the body is not JSON from {where} on; {form}") from error
    except RecursionError as error:
        raise Refused(400, f"the body is nested too deeply; {form}") from error
    except ValueError as error:  # a number of thousands of digits
        raise Refused(400, f"the body holds a number with too many digits; {form}") from error
    if deeper(value, DEPTH if path == INVOCATIONS else DEPTH - 2):
        raise Refused(400, f"the body is nested too deeply; {form}")
    if path != INVOCATIONS:
        return _of_one(body, path, value)
    if not isinstance(value, dict) or [*value] != ["inputs"] or not isinstance(value["inputs"], list):
        raise Refused(400, f"the body is not an object with `inputs`, a list, and nothing else; {form}")
    for number, request in enumerate(value["inputs"]):
        if not isinstance(request, dict):
            raise Refused(400, f"request {number} is not an object; {form}")
    return Call(body, [request.get("tower") for request in value["inputs"]], value["inputs"])


def _of_one(body: bytes, path: str, value: Any) -> Call:
    if not isinstance(value, dict):
        raise Refused(400, f"the body is not an object; {FORMS[path]}")
    if path == SIMILAR:
        return Call(body, ["llm" if value.get("title") is not None else "cf"], [], path)
    return Call(body, [value.get("tower")], [value], path)


def deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie in one another more than `levels` deep."""
    layer = [value] if isinstance(value, list | dict) else []
    for _ in range(levels):
        inside = [part.values() if isinstance(part, dict) else part for part in layer]
        layer = [value for values in inside for value in values if isinstance(value, list | dict)]
    return bool(layer)


def _object(form: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refused(400, f"the body has an object with the same key twice; {form}")
    return made


def _constant(form: str, name: str) -> Any:
    raise Refused(400, f"the body is not JSON ({name} is no number of JSON's); {form}")
