"""Who is told of a promotion, by real servers and commands that fail: the promotion stands, whatever they do."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmsrec.params import AfterPromotion
from llmsrec.promotion import after, aliases
from llmsrec.promotion.ledger import Decision

MADE: Decision = aliases.decide("promote", 5, "staging", {"staging": None}, {"staging": 5}, 7)
BODY = {"model": "shop", "version": 5, "alias": "staging", "decision": 7}


class Server(ThreadingHTTPServer):
    """Answers with `statuses`, one after the other, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.bodies: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/T00/secret-path?token=hidden"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status = self.server.statuses.pop(0)
        if status == 0:  # hangs
            time.sleep(2)
        self.send_response(status or 200)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(after, "BACKOFF_S", 0.01)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def lines_of(url: str | None = None, command: str | None = None) -> list[str]:
    return after.tell(AfterPromotion(url=url, command=command), "shop", MADE)


def test_nobody_is_told_where_nobody_is_named() -> None:
    assert lines_of() == []


def test_a_server_that_fails_twice_is_told_by_the_third_try(server: Server) -> None:
    server.statuses = [503, 500, 200]
    assert lines_of(server.url) == [f"http://127.0.0.1:{server.server_address[1]} was told"]
    assert server.bodies == [BODY] * 3


@pytest.mark.parametrize(
    ("statuses", "tries", "said"),
    [
        ([503] * 9, 4, "it answered with status 503"),
        ([404], 1, "it answered with status 404"),
        ([302], 1, "it answered with status 302"),
        ([0] * 9, 4, "after 4 tries"),
    ],
)
def test_what_cannot_be_told_is_one_line_without_the_secret_of_its_address(
    server: Server, monkeypatch: pytest.MonkeyPatch, statuses: list[int], tries: int, said: str
) -> None:
    monkeypatch.setattr(after, "ANSWER_S", 0.2)
    server.statuses = statuses
    (line,) = lines_of(server.url)
    assert line.startswith(f"warning: http://127.0.0.1:{server.server_address[1]} was not told: ") and said in line
    assert line.endswith("; the promotion stands") and "secret" not in line and "hidden" not in line
    assert len(server.bodies) == tries


def test_a_server_that_is_not_there_and_an_address_that_cannot_be(server: Server) -> None:
    port = server.server_address[1]
    server.shutdown()
    server.server_close()
    for url in (f"http://user:hunter22@127.0.0.1:{port}/x", "http://127.0.0.1:99999/x", "http://[::1/x"):
        (line,) = lines_of(url)
        assert "was not told" in line and "hunter22" not in line and "\n" not in line


def test_a_command_gets_the_same_on_its_input_and_may_read_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "hunter22")
    out = tmp_path / "out"
    assert lines_of(command=f"cat > {out}; echo $DEPLOY_TOKEN >> {out}") == [
        "registry.after_promotion.command was told"
    ]
    body, token = out.read_text().replace("}", "}\n").splitlines()
    assert json.loads(body) == BODY and token == "hunter22"


def test_a_command_that_fails_is_tried_again_and_its_last_line_shown_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(after, "BACKOFF_S", 0.01)
    monkeypatch.setenv("DEPLOY_TOKEN", "hunter22")
    (line,) = lines_of(command=f"echo >> {tmp_path}/tries; echo no $DEPLOY_TOKEN >&2; exit 3")
    assert "command was not told: exit status 3 after 4 tries, no ***; the promotion stands" in line
    assert len((tmp_path / "tries").read_text().splitlines()) == 4


def test_a_command_that_hangs_is_ended_with_all_that_it_started_and_one_that_leaves_something_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(after, "COMMAND_S", 0.3)
    began = time.monotonic()
    assert "took more than 0.3 s" in lines_of(command="sleep 30 | sleep 31")[0]
    monkeypatch.setattr(after, "COMMAND_S", 20)
    assert lines_of(command="sleep 5 & exit 0") == ["registry.after_promotion.command was told"]
    assert time.monotonic() - began < 5


def test_what_goes_wrong_in_telling_is_a_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no more files")

    monkeypatch.setattr(after, "_run", broken)
    assert lines_of(command="true")[0] == (
        "warning: registry.after_promotion.command was not told: RuntimeError: no more files; the promotion stands"
    )
