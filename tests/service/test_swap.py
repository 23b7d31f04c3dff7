"""A moved alias, versions that may not serve, a registry that is down, and processes that die, on real services."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from llmsrec import cli
from llmsrec.errors import DataError, RequestError
from llmsrec.service import memory
from llmsrec.service.command import bound
from llmsrec.service.metrics import Metrics
from llmsrec.service.swap import Swap
from tests.servers import free_port
from tests.service.conftest import LOADS_S, Running, Store, request, serve

CALL = {"inputs": [request([1, 2, 3]), request([4, 5])]}


class Load:
    """Clients that ask fifty times a second each, and what they were answered.

    With no pause at all they would take the cores from what is started meanwhile, and a test would last longer.
    """

    def __init__(self, service: Running, clients: int, body: Any = CALL, keep_alive: bool = True) -> None:
        self.answers: list[tuple[int, set[str], str]] = []  # status, versions by titles, version by header
        self.broken: list[str] = []
        self._service, self._body, self._keep_alive, self._stop = (
            service,
            json.dumps(body),
            keep_alive,
            threading.Event(),
        )
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, count: int) -> None:
        end = time.monotonic() + 120
        while len(self.answers) < count:
            assert time.monotonic() < end
            time.sleep(0.01)

    def _ask(self) -> None:
        connection = self._service.connection()
        while not self._stop.is_set():
            try:
                connection.request("POST", "/invocations", self._body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                said = json.loads(response.read())
                titles = {item["title"] for answer in said.get("predictions", []) for item in answer["items"]}
                versions = {"2" if title == "Version 2" else "1" for title in titles}
                self.answers.append((response.status, versions, response.getheader("x-llmsrec-version") or ""))
            except ConnectionRefusedError:
                return  # it has ended, and accepted nothing
            except (OSError, HTTPException) as error:
                self.broken.append(repr(error))
                return
            if not self._keep_alive:
                connection.close()
            self._stop.wait(0.02)
        connection.close()


@pytest.fixture(scope="module")
def follower(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of the `cf` tower that looks at the alias all the time."""
    running = serve(store, tmp_path_factory.mktemp("follower"), "--no-llm", "--poll", "0.1", "--drain", "0.5")
    try:
        yield running
    finally:
        assert running.end() == 0, running.log.read_text()


@pytest.fixture
def following(store: Store, follower: Running) -> Running:
    """The follower, once it answers from version 1."""
    store.alias(1)
    follower.ready(1)
    return follower


def test_a_moved_alias_is_followed_and_no_call_fails_or_mixes_versions(store: Store, following: Running) -> None:
    before = following.metric('llmsrec_swaps_total{outcome="taken"}')
    with Load(following, 4) as load:
        for version in (2, 1, 2):
            load.until(len(load.answers) + 50)
            store.alias(version)
            following.ready(version)
        load.until(len(load.answers) + 50)
    assert not load.broken
    assert {status for status, _, _ in load.answers} == {200}
    assert all({f"shop/{number}" for number in versions} == {said} for _, versions, said in load.answers)
    assert {said for _, _, said in load.answers} == {"shop/1", "shop/2"}
    assert following.metric('llmsrec_swaps_total{outcome="taken"}') == before + 3
    assert following.metric('llmsrec_model{alias="staging"') == 1


def test_a_version_that_fails_its_self_test_never_serves_and_is_told(store: Store, following: Running) -> None:
    with Load(following, 2) as load:
        store.alias(3)
        said = following.until(lambda said: said["refused"])
    assert (said["ready"], said["version"], said["refused"]["version"]) == (True, "1", "shop/3")
    assert "used 99" in said["refused"]["reason"]
    assert following.metric('llmsrec_refused{version="shop/3"}') == 1
    assert following.metric('llmsrec_swaps_total{outcome="refused"}') == 1
    assert not load.broken and {(status, said) for status, _, said in load.answers} == {(200, "shop/1")}
    store.alias(2)
    assert following.ready(2)["refused"] is None


def test_a_version_whose_files_were_altered_never_serves_and_mended_it_does(store: Store, following: Running) -> None:
    path = store.stored(2) / "artifacts/bundle/vectors.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        store.alias(2)
        said = following.until(lambda said: said["refused"])
        assert (said["ready"], said["version"]) == (True, "1")
        assert "is not what was registered" in said["refused"]["reason"]
        assert "vectors.safetensors" in said["refused"]["reason"]
    finally:
        path.write_bytes(content)
    assert following.ready(2)["refused"] is None, "it is tried again after a pause"


@pytest.mark.parametrize("tower", ["others", "llm"])
def test_a_worker_that_is_killed_is_started_again_and_what_it_was_asked_is_answered(
    store: Store, tmp_path: Path, tower: str
) -> None:
    store.alias(1)
    service = serve(store, tmp_path, *(["--no-llm"] if tower == "others" else []), "--deadline", "120", "--drain", "0")
    try:
        service.ready(1)
        body = {"inputs": [request([1, 2, 3], tower="cf" if tower == "others" else "llm")]}
        with Load(service, 4, body) as load:
            load.until(20)
            os.kill(worker_of(service, llm=tower == "llm"), signal.SIGKILL)
            service.until(lambda said: not said["ready"])
            assert service.ask(None, "/livez")[0] == 200
            service.ready(1)
            load.until(len(load.answers) + 20)
        assert not load.broken and {status for status, _, _ in load.answers} == {200}
    finally:
        assert service.end() == 0, service.log.read_text()


def worker_of(service: Running, llm: bool) -> int:
    """The pid of a worker process."""
    mark = f'"llm": {json.dumps(llm)}'
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    (pid,) = [int(pid) for pid in children if mark in Path(f"/proc/{pid}/cmdline").read_text()]
    return pid


def test_workers_end_with_a_service_that_is_killed(store: Store, tmp_path: Path) -> None:
    store.alias(1)
    service = serve(store, tmp_path, "--no-llm")
    service.ready(1)
    worker = worker_of(service, llm=False)
    assert service.end(signal.SIGKILL) == -signal.SIGKILL
    end = time.monotonic() + 30
    while Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)
    again = serve(store, tmp_path, "--no-llm", "--drain", "0")
    again.ready(1)
    assert again.ask(CALL)[0] == 200
    assert again.end() == 0


def test_sigterm_takes_readiness_first_and_what_was_accepted_is_answered(store: Store, tmp_path: Path) -> None:
    store.alias(1)
    service = serve(store, tmp_path, "--no-llm", "--drain", "1.5")
    service.ready(1)
    with Load(service, 6, keep_alive=False) as load:
        load.until(30)
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda said: said["draining"] and not said["ready"])
        before = len(load.answers)
        load.until(before + 20)  # it still answers who has not heard it
        load.stop()  # as a load balancer does that has
    assert service.end() == 0
    assert not load.broken and {status for status, _, _ in load.answers} == {200}
    assert service.lines[-1]["message"] == "ended"


def test_sigterm_while_a_version_is_loaded_ends_it(store: Store, tmp_path: Path) -> None:
    store.alias(1)
    service = serve(store, tmp_path)
    service.until(lambda said: not said["ready"])
    assert service.ask({"inputs": []})[0] == 503
    assert service.end() == 0, service.log.read_text()


@pytest.fixture
def registry_server(store: Store, tmp_path: Path) -> Iterator[Any]:
    """A function that starts the MLflow server on the store, at one address each time."""
    port, started = free_port(), []

    def start() -> tuple[str, "subprocess.Popen[bytes]"]:
        command = ["mlflow", "server", "--backend-store-uri", store.uri, "--port", str(port), "--workers", "1"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PATH": path}
        with (tmp_path / "server.log").open("w") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        started.append(server)
        end = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return f"http://127.0.0.1:{port}", server
            except OSError:
                assert time.monotonic() < end and server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.1)

    yield start
    for server in started:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def test_a_registry_that_is_down_changes_nothing_and_is_followed_when_it_is_back(
    store: Store, tmp_path: Path, registry_server: Any
) -> None:
    store.alias(1)
    uri, server = registry_server()
    service = serve(store, tmp_path, "--no-llm", "--poll", "0.2", "--drain", "0", MLFLOW_TRACKING_URI=uri)
    try:
        service.ready(1)
        with Load(service, 2) as load:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            said = service.until(lambda said: said["registry"] != "answers")
            assert said["ready"] and "does not answer" in said["registry"]
            assert service.metric("llmsrec_registry_up") == 0
            store.alias(2)
            load.until(len(load.answers) + 50)
            assert {said for _, _, said in load.answers} == {"shop/1"}
            registry_server()
            assert service.ready(2)["registry"] == "answers"
        assert not load.broken and {status for status, _, _ in load.answers} == {200}
    finally:
        assert service.end() == 0, service.log.read_text()


BEFORE_IT_LISTENS = {
    "no registry": ((), {"MLFLOW_TRACKING_URI": "sqlite:////nowhere/mlflow.db"}, "no registry at"),
    "registry down": ((), {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "does not answer"),
    "a port": (("--port", "70000"), {}, "--port is 70000; give 0 to 65535"),
    "an address": (("--host", "198.51.100.7"), {}, "cannot be bound"),
    "a deadline": (("--deadline", "nan"), {}, "--deadline is nan"),
    "a token": (("--token-file", "/nowhere"), {}, "--token-file /nowhere cannot be read"),
    "a log": (("--log-requests", "/proc/log"), {}, "--log-requests /proc/log cannot be written"),
    "no version": ((), {}, "names no version"),
    "no such alias": ((), {}, "models:/shop@nowhere cannot be had from"),
}


@pytest.mark.parametrize("case", BEFORE_IT_LISTENS)
def test_what_cannot_be_meant_ends_with_one_line(
    store: Store, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, environment, said = BEFORE_IT_LISTENS[case]
    for name, value in ({"MLFLOW_TRACKING_URI": store.uri, "DVC_ROOT": str(store.root)} | environment).items():
        monkeypatch.setenv(name, value)
    model = {"no version": "models:/shop", "no such alias": "models:/shop@nowhere"}.get(case, "models:/shop/1")
    assert cli.main(["serve", model, "--port", "0", *options]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("llmsrec serve: ") and said in lines[0]


def test_a_first_version_that_fails_its_self_test_ends_with_one_line(store: Store, tmp_path: Path) -> None:
    service = serve(store, tmp_path, "--no-llm", model="models:/shop/3")
    assert service.process.wait(timeout=LOADS_S) == 1
    lines = [line for line in service.log.read_text().splitlines() if not line.startswith("{")]
    assert len(lines) == 1 and lines[0].startswith("llmsrec serve: ") and "used 99 of" in lines[0]


def test_a_port_that_is_taken_is_one_line() -> None:
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match="cannot be bound: Address already in use; choose another --port"):
            bound("127.0.0.1", port).__enter__()


def test_no_answer_waits_for_the_acknowledgement_of_its_head() -> None:
    """Nagle's algorithm would hold the body back for 40 ms; asyncio turns it off for what says that it is TCP."""
    with bound("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_token_is_asked_for_everywhere_but_by_probes(store: Store, tmp_path: Path) -> None:
    store.alias(1)
    (tmp_path / "token").write_text("s3cret\n")
    service = serve(store, tmp_path, "--no-llm", "--token-file", str(tmp_path / "token"), "--drain", "0")
    try:
        service.ready(1)
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            status, answer, headers = service.ask(CALL, **given)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert "s3cret" not in json.dumps(answer)
        assert service.ask(None, "/metrics")[0] == 401
        assert service.ask(CALL, Authorization="Bearer s3cret")[0] == 200
        assert service.ask(None, "/metrics", Authorization="Bearer s3cret")[0] == 200
        assert "s3cret" not in service.log.read_text()
        assert service.ask({"inputs": [request([1], tower="llm")]}, Authorization="Bearer s3cret")[0] == 400
    finally:
        assert service.end() == 0


def test_what_no_memory_is_left_for_is_not_loaded_beside_what_answers(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures are the machine's; too little memory cannot be had on purpose, so it is pretended."""
    assert memory.resident(os.getpid()) > 2**20 and memory.resident(2**22 + 1) == 0
    free = memory.available()
    assert free is not None and free > 2**20
    swap = Swap(None, [], Metrics(), 1)  # type: ignore[arg-type]
    swap._check_memory(tiny.bundle)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(DataError, match=r"it needs about \d+ MB of memory beside the version that answers, and 0 MB"):
        swap._check_memory(tiny.bundle)
