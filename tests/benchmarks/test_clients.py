"""What the benchmarks' clients count, and that they ask as they say; a small server answers with what a test says."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.clients import Measured, closed, opened

BODIES = [b'{"n": %d}' % n for n in range(5)]
Answer = Callable[[int], bytes]  # number of a call, in the order of arrival -> what is sent back; empty closes


def answer(status: int, content: bytes = b"{}", fields: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d Reason\r\ncontent-type: application/json\r\nContent-Length: %d\r\n" % (status, len(content))
    return head + fields + b"\r\n" + content


class Server:
    """Takes whole calls on any number of connections, a thread for each."""

    def __init__(self, of: Answer, pieces: int = 1) -> None:
        self._answer, self._pieces, self._lock = of, pieces, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.calls: list[tuple[float, bytes]] = []  # when each came, and its body

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        received = b""
        with client:
            while data := client.recv(2**16):
                received += data
                head, blank, body = received.partition(b"\r\n\r\n")
                if not blank or len(body) < int(head.rpartition(b"Content-Length: ")[2]):
                    continue
                received = b""
                with self._lock:
                    number = len(self.calls)
                    self.calls.append((time.perf_counter(), body))
                said = self._answer(number)
                if not said:
                    return
                step = -(-len(said) // self._pieces)
                for start in range(0, len(said), step):
                    client.sendall(said[start : start + step])
                    time.sleep(0.01 * (self._pieces > 1))


@contextmanager
def server(of: Answer, pieces: int = 1) -> Iterator[Server]:
    made = Server(of, pieces)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()


def late(seconds: float) -> Answer:
    """An answer that everybody gets so many seconds from now, and nobody before."""
    goes_on = threading.Event()

    def answered(_: int) -> bytes:
        goes_on.wait()
        return answer(200)

    threading.Timer(seconds, goes_on.set).start()
    return answered


def test_rates_percentiles_and_costs_are_of_served_calls() -> None:
    measured = Measured(seconds=2.0, times={200: [0.001, 0.002, 0.003, 0.010], 429: [0.5], 504: [1.0], 0: [1.0]})
    measured.processors = [0.002, 0.006]
    assert measured.rate == 2.0
    assert measured.ms(0.5) == pytest.approx(2.5) and measured.ms(1.0) == pytest.approx(10.0)
    assert measured.ms(0.5, 429) == pytest.approx(500.0)
    assert measured.failed == 2
    assert (measured.cost, measured.narrowest) == (pytest.approx(2.0), pytest.approx(1.5))
    assert measured.efficiency == pytest.approx(500.0)
    assert measured.shown() == ["2/s", "2.5", "9.8", "2"]
    assert measured.figures()["rate"] == 2.0


def test_nothing_served_is_no_division_by_zero() -> None:
    measured = Measured(seconds=1.0, times={429: [0.1]}, processors=[0.5])
    assert (measured.rate, measured.failed, measured.efficiency) == (0.0, 0, 0.0)
    assert measured.ms(0.5) != measured.ms(0.5), "not a number"
    assert measured.cost == pytest.approx(500.0)


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_closed_loop_asks_all_bodies_in_turn_and_ends_after_so_many_calls(pieces: int) -> None:
    heard: list[tuple[bytes, bytes]] = []
    with server(lambda _: answer(200, b"x" * 100), pieces) as service:
        measured = closed(
            service.port, BODIES, 3, 60.0, most=12, heard=lambda head, content: heard.append((head, content))
        )
    assert measured.sent == len(service.calls) == len(measured.times[200]) == 12
    counts = [sum(body == said for _, said in service.calls) for body in BODIES]
    assert sorted(counts) == [2, 2, 2, 3, 3]
    assert [content for head, content in heard if head.startswith(b"HTTP/1.1 200")] == [b"x" * 100] * 12
    assert measured.seconds < 30


def test_all_clients_ask_at_once_even_where_nobody_is_answered() -> None:
    with server(late(1.0)) as service:
        measured = closed(service.port, BODIES, 100, 0.9)
    assert measured.sent == len(measured.times[200]) == 100


def test_who_is_patient_waits_as_long_as_retry_after_says() -> None:
    with server(lambda n: answer(429, fields=b"Retry-After: 1\r\n") if n == 0 else answer(200)) as service:
        measured = closed(service.port, BODIES, 1, 60.0, patient=True, most=2)
    assert {status: len(times) for status, times in measured.times.items()} == {429: 1, 200: 1}
    assert service.calls[1][0] - service.calls[0][0] >= 0.99


def test_a_connection_that_breaks_counts_as_failed_and_is_opened_again() -> None:
    with server(lambda n: b"" if n == 1 else answer(200)) as service:
        measured = closed(service.port, BODIES, 1, 60.0, most=4)
    assert {status: len(times) for status, times in measured.times.items()} == {200: 3, 0: 1}
    assert measured.failed == 1


def test_an_open_loop_asks_at_its_own_rate_and_counts_what_nobody_was_free_to_send() -> None:
    with server(lambda _: answer(200)) as service:
        measured = opened(service.port, BODIES, 100.0, 1.0, 50)
        assert 50 <= measured.sent <= measured.offered <= 100
    with server(late(1.2)) as service:
        measured = opened(service.port, BODIES, 100.0, 1.0, 2)
        assert (measured.sent, len(service.calls)) == (2, 2) and measured.offered >= 50
