"""Clients of a service at as little processor time as may be, as they share its cores: epoll, and bytes made before.

They ask in a closed loop (again as soon as they are answered) or in an open one (at random times, whether the others
are answered or not).
"""

import contextlib
import heapq
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEAD = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
LENGTH, RETRY = re.compile(rb"(?i)content-length: *(\d+)"), re.compile(rb"(?i)retry-after: *(\d+)")
PIECE = 2**16  # bytes received at once
LAST_S = 5.0  # for answers that are on their way at the end
PATIENCE_S = 0.5  # the longest that epoll waits
AT_ONCE = 16  # calls sent between two looks for answers
Heard = Callable[[bytes, bytes], None]  # head and content of an answer; both empty where the connection broke
BROKEN_S = 0.1  # before who lost its connection asks again


@dataclass
class Measured:
    """What clients met.

    Attributes:
        seconds: how long they asked.
        times: seconds from each call to its answer, by status; 0 where the connection broke.
        sent: calls.
        offered: calls that an open loop would have sent; the rest came when all connections waited for answers.
        own: processor time of the clients in s.
        processors: that of each process of the service, once somebody has looked.
    """

    seconds: float = 0.0
    times: dict[int, list[float]] = field(default_factory=dict)
    sent: int = 0
    offered: int = 0
    own: float = 0.0
    processors: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Served calls a second."""
        return len(self.times.get(200, [])) / self.seconds

    def ms(self, share: float, status: int = 200) -> float:
        """A percentile of the answers with this status, in ms."""
        times = self.times.get(status)
        return float(np.quantile(times, share)) * 1000 if times else float("nan")

    @property
    def failed(self) -> int:
        """Answers that are neither served nor told to come again."""
        return sum(len(times) for status, times in self.times.items() if status not in (200, 429))

    @property
    def cost(self) -> float:
        """Processor time of a served call in ms, all processes of the service together."""
        return 1000 * sum(self.processors) / max(1, len(self.times.get(200, [])))

    @property
    def narrowest(self) -> float:
        """The same of the process that needs most: a core for each, and this is what bounds the rate."""
        return 1000 * max(self.processors, default=0.0) / max(1, len(self.times.get(200, [])))

    @property
    def efficiency(self) -> float:
        """Served calls for each second of processor time that the service used."""
        return len(self.times.get(200, [])) / max(1e-9, sum(self.processors))

    def shown(self) -> list[str]:
        """Cells of a line."""
        return [f"{self.rate:,.0f}/s", f"{self.ms(0.5):.1f}", f"{self.ms(0.99):.1f}", str(self.failed)]

    def figures(self) -> dict[str, float]:
        """For the file."""
        return {"rate": self.rate, "p50_ms": self.ms(0.5), "p99_ms": self.ms(0.99), "failed": self.failed}


class _Connection:
    """One connection; it asks, and asks again only once it is answered."""

    __slots__ = ("asking", "received", "sent_at", "socket")

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.received = b""
        self.sent_at = 0.0
        self.asking = False

    def open(self, port: int, epoll: select.epoll, by_number: dict[int, "_Connection"]) -> None:
        """Connect, if the service takes it."""
        with contextlib.suppress(OSError):
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=LAST_S)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            epoll.register(self.socket, select.EPOLLIN)
            by_number[self.socket.fileno()] = self

    def ask(self, port: int, call: bytes, epoll: select.epoll, by_number: dict[int, "_Connection"]) -> bool:
        """Send a call; False where the service does not take it."""
        if self.socket is None:
            self.open(port, epoll, by_number)
        self.sent_at = time.perf_counter()
        try:
            if self.socket:
                self.socket.sendall(call)
                self.asking = True
        except OSError:
            self.close(by_number)
        return self.asking

    def answer(self, by_number: dict[int, "_Connection"]) -> tuple[int, bytes, bytes] | None:
        """Status, head and content once the answer is whole; status 0 where the connection broke before."""
        assert self.socket
        try:
            data = self.socket.recv(PIECE)
        except OSError:
            data = b""
        if not data:
            asked, self.asking = self.asking, False
            self.close(by_number)
            return (0, b"", b"") if asked else None  # the service closes what nobody has used for seconds
        self.received += data
        head, blank, content = self.received.partition(b"\r\n\r\n")
        if not blank or len(content) < int(LENGTH.search(head)[1]):  # type: ignore[index]
            return None
        self.received, self.asking = b"", False
        return int(head[9:12]), head, content

    def close(self, by_number: dict[int, "_Connection"]) -> None:
        if self.socket:
            by_number.pop(self.socket.fileno(), None)
            self.socket.close()  # which takes it out of epoll, too
        self.socket, self.received = None, b""


def closed(
    port: int,
    bodies: list[bytes],
    clients: int,
    seconds: float,
    patient: bool = False,
    pause_s: float = 0.0,
    done: Callable[[], bool] = lambda: False,
    most: int | None = None,
    heard: Heard = lambda head, content: None,
) -> Measured:
    """Clients that ask again as soon as they are answered.

    Args:
        patient: they wait as long as Retry-After says.
        pause_s: they wait so long after each answer.
        done: true once it is to end before its time.
        most: calls after which it ends.
        heard: told of each whole answer.
    """
    return _asked(port, bodies, clients, seconds, None, patient, pause_s, done, most, heard)


def opened(port: int, bodies: list[bytes], rate: float, seconds: float, connections: int) -> Measured:
    """Calls that come at random times, `rate` a second; one that finds all connections waiting is not sent."""
    random = np.random.default_rng(0)
    due = np.cumsum(random.exponential(1 / rate, max(1, int(rate * seconds))))
    return _asked(port, bodies, connections, seconds, due, False, 0.0, lambda: False, None, lambda head, content: None)


def _asked(
    port: int,
    bodies: list[bytes],
    connections: int,
    seconds: float,
    due: Any,
    patient: bool,
    pause_s: float,
    done: Callable[[], bool],
    most: int | None,
    heard: Heard,
) -> Measured:
    calls = [HEAD % len(body) + body for body in bodies]
    measured, epoll = Measured(), select.epoll()
    by_number: dict[int, _Connection] = {}
    free = [_Connection() for _ in range(connections)]
    for connection in free:
        connection.open(port, epoll, by_number)
    resting: list[tuple[float, int, _Connection]] = []  # a heap: when a patient client asks again
    next_due = turn = 0
    used, began = time.process_time(), time.perf_counter()
    end, now = began + seconds, began

    def over(status: int, connection: _Connection, head: bytes) -> None:
        measured.times.setdefault(status, []).append(now - connection.sent_at)
        rest = pause_s if status else BROKEN_S
        if patient and (after := RETRY.search(head)):
            rest = float(after[1])
        if rest:
            heapq.heappush(resting, (now + rest, id(connection), connection))
        else:
            free.append(connection)

    while True:
        now = time.perf_counter()
        if done() or measured.sent == most:
            end = min(end, now)
        while resting and resting[0][0] <= now:
            free.append(heapq.heappop(resting)[2])
        if now < end:
            wanted = len(free)
            if due is not None:
                came = int(np.searchsorted(due, now - began)) - next_due
                missed = max(0, came - wanted)  # nobody is free to send them
                next_due += missed + min(wanted, came, AT_ONCE)
                wanted = min(wanted, came)
            if most is not None:
                wanted = min(wanted, most - measured.sent)
            for _ in range(min(wanted, AT_ONCE)):
                connection = free.pop()
                turn += 1
                measured.sent += 1
                if not connection.ask(port, calls[turn % len(calls)], epoll, by_number):
                    over(0, connection, b"")
        elif now > end + LAST_S or len(free) + len(resting) == connections:
            break
        wake = end if now < end else now + PATIENCE_S
        if due is None and now < end and free:
            wake = now
        elif due is not None and next_due < len(due):
            wake = min(wake, began + due[next_due])
        if resting:
            wake = min(wake, resting[0][0])
        for number, _ in epoll.poll(min(PATIENCE_S, max(0.0, wake - now))):
            now = time.perf_counter()
            connection = by_number[number]
            if answer := connection.answer(by_number):
                status, head, content = answer
                over(status, connection, head)
                heard(head, content)
    measured.seconds, measured.offered = end - began, next_due
    measured.own = time.process_time() - used
    for connection in [*by_number.values()]:
        connection.close(by_number)
    epoll.close()
    return measured
