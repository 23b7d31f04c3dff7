"""One client's connection: uvicorn's, with bounds on how many there are, on a head and on what is sent ahead."""

import asyncio
import re
from collections import deque
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from llmsrec.service.open_files import crowd

HEADERS_S = 10.0  # from a connection's first byte, or its opening, to a request
HEAD_BYTES = 2**16  # of a request, before its body
AHEAD = 64  # requests that a client may send before it has the answer to the first
CALL = re.compile(rb"POST (/[a-z]+) HTTP/1\.1(\r\n.*)", re.DOTALL)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})(?=\r\n|$)")
OTHER = re.compile(
    rb"\r\n(?:transfer-encoding|connection|expect|upgrade|content-length *[^: ]) *:"
)  # may change the rest
UPGRADE = re.compile(rb"(?i)\r\nupgrade *:")
SENT_ID = re.compile(rb"(?i)\r\nx-request-id: *([^\r]*)")
TRAILERS: deque[Any] = deque(maxlen=0)  # keeps nothing
CROWDED = "crowded"  # in the state of a request on such a connection

Protocol: Any = AutoHTTPProtocol  # httptools', which is written in C, and h11's where that is not installed


class Connection(Protocol):
    """Uvicorn waits for ever for the rest of a head, however long, and reads on while requests wait for their turn:
    clients that send slowly, or more than they read, would hold all sockets or all memory.

    A call that cannot be let in is refused here, before there is a task for it: calls that are refused are many when
    time is short. What arrives whole and alone is not even parsed for that. Both with httptools alone.
    """

    _timer: asyncio.TimerHandle | None = None
    _head: int | None = None  # bytes so far of a head that is not complete
    _reading = False
    _running: Any = None  # the cycle of the request that is being answered, or was last
    _held: Any = None  # the cycle of a request, while what arrived with it is read
    _refused_at = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.app.connections:
            self.app_state = {CROWDED: True}
        if len(self.connections) > crowd(self.app.connections):
            transport.abort()  # its file is free again; once all are taken, nobody could be answered
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._running:  # uvicorn tells only the request that came last, and others would write to what is closed
            self._running.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.app.door.crowded and self._between and (refusal := self._refusal(data)):
            self._refuse(refusal)
            return
        before = self.cycle
        self._reading = True
        super().data_received(self._without_upgrade(data))
        self._reading = False
        if self._held:
            self._begin()
        if self.cycle is not before:
            self._disarm()
        elif self._timer is None and self._idle:
            self._arm()
        if self._head is not None:
            self._head += len(data)
        if (self._head or 0) > HEAD_BYTES or len(getattr(self, "pipeline", ())) > AHEAD:
            self.transport.close()

    # What follows is called by httptools' protocol alone; h11 bounds heads by itself, and reads no request ahead.

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """What follows a body in pieces is no part of its head: a proxy has not looked at it, and it has no end."""
        self._head = None
        super().on_headers_complete()
        self.headers = TRAILERS

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        if self._reading:
            self._held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self) -> None:
        (cycle, app), self._held = self._held, None
        whole = cycle.keep_alive and not cycle.more_body
        if whole and not self.app_state:
            sent = next((value for name, value in cycle.scope["headers"] if name == b"x-request-id"), b"")
            if refusal := self.app.refusal(cycle.scope["path"], sent, cycle.body):
                self.transport.write(refusal)
                cycle.response_started = cycle.response_complete = True
                cycle.on_response()
                return
            self.app.door.enter(cycle.scope, cycle.body)
        super()._start_asgi_task(cycle, app)

    def _refusal(self, data: bytes) -> bytes | None:
        """The answer to a call that is all that has arrived, and that cannot be let in; None for others."""
        head, blank, body = data.partition(b"\r\n\r\n")
        if not blank or not (call := CALL.match(head)):
            return None
        fields = call[2].lower()
        lengths = LENGTH.findall(fields)
        if len(lengths) != 1 or int(lengths[0]) != len(body) or OTHER.search(fields):
            return None
        sent = SENT_ID.search(call[2])
        return self.app.refusal(call[1].decode(), sent[1] if sent else b"", body)

    def _without_upgrade(self, data: bytes) -> bytes:
        """The same, where a head is due, without the offer of another protocol: httptools takes what follows it for
        that protocol, and the body is lost. Java's client offers HTTP/2 with each call.
        """
        in_body = self._head is None and self.cycle is not None and self.cycle.more_body
        if in_body or not UPGRADE.search(data):
            return data
        head, blank, body = data.partition(b"\r\n\r\n")
        return UPGRADE.sub(b"\r\nnot-taken:", head) + blank + body

    def _refuse(self, refusal: bytes) -> None:
        self.transport.write(refusal)
        self._refused_at = self.loop.time()
        if self._timer:  # as after any first call, uvicorn's own time begins
            self._disarm()
            self.timeout_keep_alive_handler()

    def timeout_keep_alive_handler(self) -> None:
        """Close what nobody has used for a while; a call that was refused unparsed was a use."""
        rest = self._refused_at + self.timeout_keep_alive - self.loop.time()
        if rest > 0:
            self.timeout_keep_alive_task = self.loop.call_later(rest, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    @property
    def _between(self) -> bool:
        """Whether what arrives now is the beginning of a request, with nothing before it that is not answered."""
        if not hasattr(self, "parser") or self._head is not None or self.app_state:
            return False
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        self._timer = self.loop.call_later(HEADERS_S, self._late)

    def _disarm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._idle and not self.transport.is_closing():
            self.transport.close()
