"""Connections to a service: what is sent on them in odd ways or slowly, and what is not read."""

import json
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.service.conftest import START, Running, post, raw, request

CALL = json.dumps({"inputs": [request([1, 2])]}).encode()
CLOSED_S = 60.0  # for the service to close a connection, on a machine that does much else


def test_pipelined_requests_are_answered_in_order(service: Running) -> None:
    bodies = [json.dumps({"inputs": [request([n], k=n)]}).encode() for n in range(1, 6)]
    received = raw(service, b"".join(post(body, close=n == 4) for n, body in enumerate(bodies)))
    answers = [
        json.loads(part.partition(b"\r\n\r\n")[2].split(b"HTTP/1.1")[0])
        for part in received.split(b"HTTP/1.1 200 OK")[1:]
    ]
    assert [len(answer["predictions"][0]["items"]) for answer in answers] == [1, 2, 3, 4, 5]


def test_a_client_in_pieces_is_answered_and_one_that_is_no_http_is_not(service: Running) -> None:
    whole = post(CALL)
    assert b"200 OK" in raw(service, *(whole[n : n + 40] for n in range(0, len(whole), 40)), pause=0.01)
    assert raw(service, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").startswith(b"HTTP/1.1 400")
    negative = post(b"{}").replace(b"Content-Length: 2", b"Content-Length: -2")
    assert raw(service, negative).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("pieces", ["whole", "head first", "in the head"])
def test_the_offer_of_another_protocol_is_not_taken_and_the_call_answered(service: Running, pieces: str) -> None:
    """As Java's client makes it; twice on one connection, as the parser must go on, too."""
    offer = b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    first, last = (
        post(CALL, close=close).replace(b"\r\nContent-Type", b"\r\nConnection: Upgrade\r\n" + offer + b"Content-Type")
        for close in (False, True)
    )
    last = last.replace(b"Connection: Upgrade\r\n", b"")
    cut = {"whole": 0, "head first": last.index(b"\r\n\r\n") + 4, "in the head": last.index(b"HTTP2")}[pieces]
    received = raw(service, first, last[:cut], last[cut:], pause=0.3)
    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_what_follows_a_body_in_pieces_is_no_header(service: Running) -> None:
    """Else who asks could overrule what a proxy has set, and would fill the memory with what has no end."""
    head = post(b"").replace(b"Content-Length: 0", b"X-Request-Id: mine\r\nTransfer-Encoding: chunked")
    chunks = b"%x\r\n%b\r\n0\r\n" % (len(CALL), CALL)
    for pieces in ((head + chunks + b"X-Request-Id: other\r\n\r\n",), (head, chunks, b"X-Request-Id: other\r\n\r\n")):
        answer = raw(service, *pieces, pause=0.1)
        assert answer.startswith(b"HTTP/1.1 200 OK") and b"x-request-id: mine\r\n" in answer


def test_several_hosts_are_refused(service: Running) -> None:
    for fields in (b"Host: localhost\r\nHost: evil.example\r\n", b"Host: evil.example\r\nHost: localhost\r\n"):
        answer = raw(service, post(CALL).replace(b"Host: localhost\r\n", fields))
        assert answer.startswith(b"HTTP/1.1 400") and b"several Host headers" in answer


def test_who_goes_with_several_calls_under_way_is_no_error(service: Running) -> None:
    errors = [line for line in service.lines if line["level"] == "error"]
    slow = json.dumps({"inputs": [request([n, n + 1], tower="llm") for n in range(1, 25)]}).encode()
    for _ in range(5):
        assert b"HTTP/1.1 400" in raw(service, post(slow, close=False), post(CALL, close=False) * 2, b"no HTTP\r\n\r\n")
    assert service.ask(slow)[0] == 200, "what was under way before it is done, too"
    assert [line for line in service.lines if line["level"] == "error"] == errors


def sockets(service: Running) -> int:
    """How many the service has open."""
    held = 0
    for path in Path(f"/proc/{service.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held += str(path.readlink()).startswith("socket:")
    return held


def test_clients_that_send_or_read_slowly_are_closed_and_hold_nobody_up(service: Running) -> None:
    half, answers = post(CALL), list[bytes]()
    threads = [
        threading.Thread(target=lambda piece=piece: answers.append(raw(service, piece)))
        for piece in [half[:30]] * 20 + [half[:-5]] * 20
    ]
    unknown = [{"parent_asin": f"{n:0256}", "timestamp": START} for n in range(900)]
    large = json.dumps({"inputs": [{"history": unknown, "tower": "cf"}] * 28}).encode()  # and so is its answer
    before = sockets(service)
    with ExitStack() as stack:
        readers = [stack.enter_context(socket.socket()) for _ in range(4)]
        for reader in readers:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
            reader.connect(("127.0.0.1", service.port))
            reader.sendall(post(large, close=False))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        assert service.ask(CALL)[0] == 200
        assert time.monotonic() - began < 5
        for thread in threads:
            thread.join()
        assert sorted(answer[:12] for answer in answers) == [b""] * 20 + [b"HTTP/1.1 408"] * 20
        while sockets(service) > before:  # the kernel tells no client that does not read
            assert time.monotonic() - began < CLOSED_S
            time.sleep(0.1)
