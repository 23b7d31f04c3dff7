"""One client's connection: uvicorn's, closed where a request's headers do not come."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0  # from a connection's first byte, or its opening, to a request


class Connection(H11Protocol):
    """Uvicorn waits for ever for the rest of a head: clients that send theirs slowly would hold all sockets."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self._timer is None and self._idle:
            self._arm()
        super().data_received(data)
        if self.cycle is not before:
            self._disarm()

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
