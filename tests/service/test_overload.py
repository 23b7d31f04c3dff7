"""More calls than can be served, on real services: what is let in is answered, and the others hear of it at once."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from benchmarks.clients import closed, opened
from llmsrec.service import connection
from llmsrec.service.app import Service, application
from llmsrec.service.command import ACCEPTED, bound, configuration, listeners
from llmsrec.service.loaded import Loaded
from llmsrec.service.metrics import Metrics
from llmsrec.service.open_files import CONNECTIONS
from llmsrec.service.swap import Swap
from llmsrec.service.workers import Settings, Worker
from tests.service.conftest import Running, Store, post, raw, request, serve
from tests.service.test_swap import worker_of

WAITING, DEADLINE_S = 4, 100.0
SILENT_S = 3  # that a connection may be silent where a test waits for it
CF, LLM = {"inputs": [request([1, 2])]}, {"inputs": [request([1, 2], tower="llm")]}


@pytest.fixture(scope="module")
def narrow(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of both towers in which few requests may wait."""
    options = ("--waiting", str(WAITING), "--deadline", f"{DEADLINE_S:g}", "--drain", "0")
    running = serve(store, tmp_path_factory.mktemp("narrow"), *options, model="models:/shop/1")
    try:
        running.ready(1)
        yield running
    finally:
        assert running.end() == 0, running.log.read_text()


class Held:
    """A worker that computes nothing while a block runs, and as many calls to it as may wait."""

    def __init__(self, service: Running, body: Any) -> None:
        self.answers: list[int] = []
        self._service, self._worker = service, worker_of(service, llm=body is LLM)
        ask = lambda: self.answers.append(service.ask(body)[0])  # noqa: E731
        self._threads = [threading.Thread(target=ask) for _ in range(WAITING)]

    def __enter__(self) -> "Held":
        os.kill(self._worker, signal.SIGSTOP)
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + DEADLINE_S / 2
        while self._service.metric("llmsrec_waiting_requests") < WAITING:
            assert time.monotonic() < end
            time.sleep(0.02)
        return self

    def __exit__(self, *_: Any) -> None:
        os.kill(self._worker, signal.SIGCONT)
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize(("full", "free"), [(CF, LLM), (LLM, CF)], ids=["others", "llm"])
def test_a_full_tower_says_429_before_it_reads_and_the_other_answers(narrow: Running, full: Any, free: Any) -> None:
    name = 'llmsrec_calls_total{status="429"'
    before = narrow.metric(name) if f"{name}," in narrow.ask(None, "/metrics")[1] else 0
    with Held(narrow, full) as held:
        status, answer, headers = narrow.ask(full, **{"X-Request-Id": "mine"})
        assert (status, answer["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
        assert int(headers["retry-after"]) >= 1 and headers["x-request-id"] == "mine"
        assert answer["message"] == f"too many requests wait already; try again in {headers['retry-after']} s"
        body = json.dumps(full).encode()
        whole = post(body)
        assert raw(narrow, whole[:-20], whole[-20:], pause=0.1).startswith(b"HTTP/1.1 429"), "in two pieces"
        together = raw(narrow, post(body, close=False) * 2 + post(body))
        assert together.count(b"HTTP/1.1 429 ") == 3 and together.count(answer["message"].encode()) == 3
        assert narrow.ask(body[:-1])[0] == 429, "what would be a 400 is not read"
        assert narrow.ask(free)[0] == 200
        assert narrow.ask(None, "/livez")[0] == narrow.ask(None, "/readyz")[0] == 200
        assert narrow.metric(name) == before + 6
    assert held.answers == [200] * WAITING, "what was let in is answered"
    assert narrow.ask(full)[0] == 200


@pytest.mark.parametrize(
    "fields",
    [b"Connection: close\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length : 3\r\n"],
)
def test_a_call_whose_head_says_more_than_its_length_is_parsed_before_it_is_refused(
    narrow: Running, fields: bytes
) -> None:
    whole = post(json.dumps(CF).encode(), close=False).replace(b"\r\n", b"\r\n" + fields, 1)
    with Held(narrow, CF):
        assert raw(narrow, whole).startswith((b"HTTP/1.1 429 ", b"HTTP/1.1 400 ")), "and the connection is closed"


def test_the_log_has_a_line_a_second_of_calls_that_are_refused(narrow: Running) -> None:
    with Held(narrow, CF):
        began = time.monotonic()
        for _ in range(100):
            assert narrow.ask(CF)[0] == 429
        seconds = time.monotonic() - began
    calls = [line["calls"] for line in narrow.lines if line.get("status") == 429]
    assert len(calls) <= seconds + 20, "those of other tests are among them"
    assert calls and sum(calls) <= narrow.metric('llmsrec_calls_total{status="429"')


def test_ten_times_as_many_clients_take_little_from_what_is_served(narrow: Running) -> None:
    """Rates of one run are compared, as machines differ; on an idle one both shares are near 1."""
    bodies = [json.dumps({"inputs": [request([n, n + 1])]}).encode() for n in range(1, 20)]
    closed(narrow.port, bodies, WAITING, 0.5)
    peak = closed(narrow.port, bodies, WAITING, 1.5)
    patient = closed(narrow.port, bodies, 10 * WAITING, 1.5, patient=True)
    flood = opened(narrow.port, bodies, 5 * peak.rate, 1.5, 10 * WAITING)
    for measured, share in ((patient, 0.5), (flood, 0.1)):
        assert set(measured.times) == {200, 429}
        assert measured.rate > share * peak.rate, (measured.rate, peak.rate)
    assert patient.ms(0.9, 429) < 1000 * DEADLINE_S / 20


class InProcess:
    """The application without a version, on a real socket.

    Args:
        connections: how many may be open.
        loaded: a version all the same.
        silent_s: how long a connection may be silent between two calls.
    """

    def __init__(self, connections: int = CONNECTIONS, loaded: Loaded | None = None, silent_s: int = 5) -> None:
        self._ready, self._connections, self._silent_s = threading.Event(), connections, silent_s
        self._swap = Swap(None, [], Metrics(), 1)  # type: ignore[arg-type]
        self._swap.current = loaded
        self._thread = threading.Thread(target=lambda: self._runner().run(self._serve()))

    @staticmethod
    def _runner() -> Any:
        return asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto", log_config=None).get_loop_factory())

    @property
    def connected(self) -> int:
        return len(self._server.server_state.connections)

    async def _serve(self) -> None:
        edge = application(Service(self._swap, Metrics(), 1, None, False), ["*"], None)
        edge.connections = self._connections
        settings = configuration(edge, 1)
        settings.timeout_keep_alive = self._silent_s
        self._server = uvicorn.Server(settings)
        with bound("127.0.0.1", 0) as listener:
            listener.listen()
            self.port = listener.getsockname()[1]
            self._ready.set()
            self.loop = asyncio.get_running_loop()
            await self._server.serve(sockets=listeners(listener))

    def __enter__(self) -> Running:
        self._thread.start()
        self._ready.wait()
        return Running(None, Path(), self.port)  # type: ignore[arg-type]

    def __exit__(self, *_: Any) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def empty() -> Iterator[Running]:
    with InProcess() as running:
        yield running


def test_calls_on_more_connections_than_may_be_open_are_refused_and_probes_answered() -> None:
    with InProcess(connections=4) as service:
        open_ones = [service.connection() for _ in range(4)]
        for other in open_ones:
            other.connect()
        assert service.ask(None, "/livez")[0] == 200
        status, answer, headers = service.ask(CF)
        assert (status, headers["retry-after"], headers["connection"]) == (429, "1", "close")
        assert answer["message"] == "too many connections are open"
        with socket.create_connection(("127.0.0.1", service.port)):
            assert raw(service) == b"", "and closed where more than a quarter are too many"
        for other in open_ones:
            other.close()
        end = time.monotonic() + 30
        while service.ask(CF)[0] != 503:  # there is no version
            assert time.monotonic() < end


def test_a_connection_whose_calls_are_refused_stays_open_and_is_let_in_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than a connection may be silent before its first call, and between two."""
    monkeypatch.setattr(connection, "HEADERS_S", SILENT_S)
    worker = Worker(
        Path(), Settings(llm=False, rows=1, cost=1, wait_s=0.0, waiting=1, deadline_s=10.0), lambda *_: None
    )
    worker.waiting, body = 1, post(json.dumps(CF).encode(), close=False)
    with (
        InProcess(loaded=Loaded("shop/1", None, {"others": worker}, {"own": "cf"}), silent_s=SILENT_S) as service,  # type: ignore[arg-type]
        socket.create_connection(("127.0.0.1", service.port), timeout=60) as client,
    ):
        began = time.monotonic()
        while time.monotonic() < began + 1.5 * SILENT_S:
            time.sleep(SILENT_S / 6)
            client.sendall(body)
            assert client.recv(2**16).startswith(b"HTTP/1.1 429 ")
        worker.waiting = 0
        client.sendall(body)
        assert client.recv(2**16).startswith(b"HTTP/1.1 504 "), "nothing runs that would answer it"


def test_connections_that_come_at_once_are_taken_in_few_turns_of_the_loop() -> None:
    burst, turns = 10 * ACCEPTED, 0
    serving = InProcess()
    with serving as service, contextlib.ExitStack() as stack:
        assert service.ask(None, "/livez")[0] == 200
        waits, taken = threading.Event(), threading.Event()

        def turn() -> None:
            nonlocal turns
            turns += 1
            if serving.connected < burst:
                serving.loop.call_soon(turn)
            else:
                taken.set()

        def hold() -> None:
            waits.wait()
            turn()

        serving.loop.call_soon_threadsafe(hold)
        for _ in range(burst):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60))
        waits.set()
        assert taken.wait(60)
    assert turns <= burst // 2


def test_a_head_without_an_end_and_requests_without_end_close_the_connection(empty: Running) -> None:
    began = time.monotonic()
    for flood in (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 2**18, (b"GET /livez HTTP/1.1\r\n" + b"X: x\r\n" * 50_000)):
        try:
            received = raw(empty, flood)
        except OSError:  # reset while it was still sending
            continue
        assert received == b"" or received.startswith(b"HTTP/1.1 4")
    assert time.monotonic() - began < connection.HEADERS_S, "not by its patience"
    try:  # h11 answers them one by one, httptools' connection is closed
        received = raw(empty, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000 + b"Connection: close\r\n\r\n")
    except OSError:
        received = b""
    assert received.count(b"HTTP/1.1 200") <= 1_000
    assert empty.ask(None, "/livez")[0] == 200


def test_a_burst_that_arrives_before_any_of_it_is_asked_fills_no_more_places_than_there_are(narrow: Running) -> None:
    """All in one look at the sockets: those without a place are refused unread, not let in, read and then refused."""
    counted = "llmsrec_call_seconds_count"  # of what was let in
    body = post(json.dumps(CF).encode(), close=False)
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port), timeout=60)) for _ in range(40)
        ]
        assert narrow.ask(CF)[0] == 200
        before = narrow.metric(counted)
        pid = narrow.process.pid
        os.kill(pid, signal.SIGSTOP)
        for client in crowd:
            client.sendall(body)
        os.kill(pid, signal.SIGCONT)
        answers = [client.recv(2**16)[9:12] for client in crowd]
    assert set(answers) == {b"200", b"429"}
    let_in = narrow.metric(counted) - before
    assert let_in == answers.count(b"200") >= WAITING
