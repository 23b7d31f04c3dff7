"""ASGI middleware: a request that cannot be meant is answered before it costs anything, and each error in one line.

What a body may hold is `llmsrec.serving.limits`' business, and the recommender checks it. Here stands what comes
before: the body's size, type, form and depth. MLflow's scoring server answers errors with a stack trace or with all
that was sent; what passes through here on its way back is a code and one sentence.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

BYTES = 8 * 2**20  # of a body; `limits.EVENTS` events of common ids are about 3 MB
DRAINED = 8  # so many times BYTES are read and dropped, so that who sends too much hears why
DEPTH = 5  # {"inputs": [{"history": [{...}]}]}
LONGEST = 500  # characters of a message
FORM = 'send {"inputs": [{"history": [{"parent_asin": "...", "timestamp": ...}], "k": 10, "tower": "llm"}]}'
CODES = {400: "INVALID_PARAMETER_VALUE", 413: "REQUEST_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE"}


class Refused(Exception):
    """A request that is answered here: a status and one sentence, which repeats nothing of what was sent."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Limits:
    """Wraps an app that answers POST /invocations as MLflow's scoring server does; other paths pass unchanged."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http" or scope["path"] != "/invocations" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        try:
            body = await read(receive)
            if body is None:
                return None
            check_type(dict(scope["headers"]).get(b"content-type", b"").decode("latin-1"))
            check_body(body)
        except Refused as refused:
            code = CODES[refused.status]
            return await reply(send, refused.status, {"error_code": code, "message": refused.message})
        await self._app(scope, again(body, receive), in_one_line(send))


async def read(receive: Receive) -> bytes | None:
    """The whole body; None where the client has gone.

    Raises:
        Refused: it is larger than BYTES.
    """
    parts, size, more = [], 0, True
    while more and size <= DRAINED * BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size <= BYTES:
            parts.append(part)
        else:
            parts.clear()
    if size > BYTES:
        raise Refused(413, f"the body is larger than {BYTES:,} bytes; send the requests in several calls")
    return b"".join(parts)


def check_type(value: str) -> None:
    """Raise Refused for another content type than JSON in UTF-8."""
    kind, *parameters = (part.strip().lower() for part in value.split(";"))
    if kind != "application/json" or any(p.replace('"', "") not in ("charset=utf-8", "") for p in parameters):
        raise Refused(415, "the content type is not application/json in UTF-8, the only one that is read here")


def check_body(body: bytes) -> None:
    """Raise Refused unless a body is `{"inputs": [{...}, ...]}`, nested no deeper than requests are."""
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8: byte {error.start} cannot be read") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refused(400, f"the body is not JSON ({error.msg}, {where}); {FORM}") from error
    except RecursionError as error:
        raise Refused(400, f"the body is nested too deeply; {FORM}") from error
    except ValueError as error:  # a number of thousands of digits
        raise Refused(400, f"the body holds a number with too many digits; {FORM}") from error
    if not isinstance(value, dict) or [*value] != ["inputs"] or not isinstance(value["inputs"], list):
        raise Refused(400, f"the body is not an object with `inputs`, a list, and nothing else; {FORM}")
    for number, request in enumerate(value["inputs"]):
        if not isinstance(request, dict):
            raise Refused(400, f"request {number} is not an object; {FORM}")
    if deeper(value, DEPTH):
        raise Refused(400, f"the body is nested too deeply; {FORM}")


def deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie in one another more than `levels` deep."""
    if not isinstance(value, list | dict):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(deeper(part, levels - 1) for part in inside)


def again(body: bytes, receive: Receive) -> Receive:
    """`receive` for the app: the body that was read here, and then what comes."""
    pending = [body]

    async def replayed() -> Message:
        return {"type": "http.request", "body": pending.pop(), "more_body": False} if pending else await receive()

    return replayed


def in_one_line(send: Send) -> Send:
    """`send` for the app: an answer passes as it comes, an error's body is replaced by its code and first sentence."""
    status, parts = 0, []

    async def sent(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        if status < 400:
            await send(message)
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await reply(send, status, scrubbed(b"".join(parts)))

    return sent


def scrubbed(body: bytes) -> dict[str, str]:
    """Code and first line of an error of MLflow's, without the trace and what was sent, which it puts in front."""
    try:
        answer = json.loads(body)
        code, message = str(answer["error_code"]), str(answer["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "INTERNAL_ERROR", body.decode("utf-8", "replace")
    if message.startswith("Failed to predict data"):
        message = message.rpartition("\nError: ")[2]
    lines = message.strip().splitlines() or ["the request failed; the service's log says why"]
    return {"error_code": code, "message": lines[0][:LONGEST]}


async def reply(send: Send, status: int, answer: dict[str, str]) -> None:
    """Send a whole response."""
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
