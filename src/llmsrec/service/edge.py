"""What each request passes on its way in and out: its id, the Host it is for, a token, errors in one line, the log."""

import asyncio
import functools
import hmac
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from llmsrec.service.decode import Message, Receive, Refused, form_of
from llmsrec.service.door import Door
from llmsrec.service.open_files import CONNECTIONS

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

PROBES = ("/livez", "/readyz", "/ping", "/health")  # asked by whoever runs the service, by address and without a token
ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    404: "ENDPOINT_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
LONGEST = 500  # characters of a message

log = logging.getLogger(__name__)


class Edge:
    """Wraps an ASGI app.

    Args:
        hosts: names in a Host header that are answered; `*` answers all.
        token: what `Authorization: Bearer ...` must hold, if anything.
        door: what lets calls in.

    Attributes:
        door: as given.
        closing: connections are closed after their answers, so that clients go elsewhere.
        connections: how many may be open; calls on others are told to come again.
    """

    def __init__(self, app: App, hosts: list[str], token: str | None, door: Door) -> None:
        self._app, self._hosts, self._token, self.door = app, {host.lower() for host in hosts}, token, door
        self._overloaded, self._logged_at = 0, 0.0  # calls that were told 429 since the log said so, and when it did
        self.closing, self.connections = False, CONNECTIONS

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        sent = headers.get("x-request-id", "")
        request_id, began = sent if ID.fullmatch(sent) else new_id(), time.monotonic()
        about: dict[str, Any] = {
            "request_id": request_id,
            "path": form_of(scope["path"])[:100],
            "method": scope["method"],
        }
        scope["headers_by_name"], scope["about"] = headers, about
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun, about["status"] = True, message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                if self.closing:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if scope["path"] not in PROBES:
                self._check(headers, scope["headers"])
            await self._app(scope, receive, answer)
        except Refused as refused:
            await reply(answer, refused.status, refused.message, refused.headers)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a request failed", extra={"request_id": request_id})
            if not begun:
                await reply(answer, 500, "the request failed; the service's log says why", {})
        finally:
            self.door.leave(scope)
        if about.get("status") == 429:
            self._log_overload()
        elif scope["method"] != "GET" or (scope["path"] not in PROBES and about.get("status") != 200):
            log.info("answered", extra=about | {"ms": round(1000 * (time.monotonic() - began), 2)})

    def refusal(self, path: str, sent: bytes, body: bytes) -> bytes | None:
        """The whole answer to a call that cannot be let in, before anything else is looked at; None for others.

        Args:
            sent: its `X-Request-Id`, if it has one.
        """
        if self.closing or (after_s := self.door.refuses(path, body)) is None:
            return None
        self._log_overload()
        named = sent.decode("latin-1")
        request_id = named if ID.fullmatch(named) else new_id()
        head, content = _too_many(after_s)
        return b"%bx-request-id: %b\r\n\r\n%b" % (head, request_id.encode(), content)

    def _log_overload(self) -> None:
        """A line a second at most: one for each call would take the time that calls are answered in."""
        self._overloaded += 1
        if (now := time.monotonic()) - self._logged_at >= 1:
            log.warning("calls were told to come again", extra={"status": 429, "calls": self._overloaded})
            self._overloaded, self._logged_at = 0, now

    def _check(self, headers: dict[str, str], all_of_them: list[tuple[bytes, bytes]]) -> None:
        """Raise Refused for another Host than ours, or several, or without the token."""
        if sum(name == b"host" for name, _ in all_of_them) > 1:
            raise Refused(400, "there are several Host headers; send one")
        host = headers.get("host", "").lower()
        name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if "*" not in self._hosts and name not in self._hosts:
            raise Refused(400, "the Host header names no host of this service; `--allow-host NAME` allows one")
        if self._token is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), self._token.encode())
        if kind.lower() != "bearer" or not right:
            message = "the token is missing or wrong; send `Authorization: Bearer TOKEN`"
            raise Refused(401, message, {"www-authenticate": "Bearer"})


def new_id() -> str:
    """Of a request without one; `uuid4` asks the kernel, which takes a part of what a refusal may take."""
    return f"{random.getrandbits(128):032x}"


@functools.lru_cache
def _too_many(after_s: int) -> tuple[bytes, bytes]:
    """Head, but for its end, and body of an answer 429."""
    refused = Refused.overloaded(after_s)
    content, headers = error(429, refused.message, refused.headers)
    lines = [b"HTTP/1.1 429 Too Many Requests", *(b"%b: %b" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n", content


async def reply(send: Send, status: int, message: str, headers: dict[str, str]) -> None:
    """Send an error."""
    body, encoded = error(status, message, headers)
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def error(status: int, message: str, headers: dict[str, str]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Body and headers of an error as MLflow's scoring server has them: a code and one sentence."""
    sentence = " ".join(message.split())[:LONGEST]
    body = json.dumps({"error_code": CODES.get(status, "INTERNAL_ERROR"), "message": sentence}).encode()
    listed = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    return body, [(name.encode(), value.encode()) for name, value in listed.items()]
