"""One client's connection: uvicorn's, with bounds on how many there are, on a head and on what is sent ahead."""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from llmsrec.service.open_files import crowd

HEADERS_S = 10.0  # from a connection's first byte, or its opening, to a request
HEAD_BYTES = 2**16  # of a request, before its body
AHEAD = 64  # requests that a client may send before it has the answer to the first
CROWDED = "crowded"  # in the state of a request on such a connection

Protocol: Any = AutoHTTPProtocol  # httptools', which is written in C, and h11's where that is not installed


class Connection(Protocol):
    """Uvicorn waits for ever for the rest of a head, however long, and reads on while requests wait for their turn:
    clients that send slowly, or more than they read, would hold all sockets or all memory.

    With httptools a call that cannot be let in is refused here, before there is a task for it: calls that are refused
    are many when time is short.
    """

    _timer: asyncio.TimerHandle | None = None
    _head: int | None = None  # bytes so far of a head that is not complete
    _reading = False
    _held: Any = None  # the cycle of a request, while what arrived with it is read

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
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        self._reading = True
        super().data_received(data)
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
        self._head = None
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._reading:
            self._held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self) -> None:
        (cycle, app), self._held = self._held, None
        whole = cycle.keep_alive and not cycle.more_body
        refusal = self.app.refusal(cycle.scope, cycle.body) if whole and not self.app_state else None
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        self.transport.write(refusal)
        cycle.response_started = cycle.response_complete = True
        cycle.on_response()

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
