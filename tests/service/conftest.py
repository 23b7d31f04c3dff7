"""Real services on a real registry: `llmsrec serve` as a process, asked over loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from llmsrec.serving.bundle import seal
from tests.servers import free_port

DAY, START = 86_400_000, 1_391_040_000_000  # ms
MAIN = "import sys; from llmsrec.cli import main; sys.exit(main())"
LOADS_S = 240  # on a machine that does much else


def request(items: list[int], k: int = 3, tower: str = "cf") -> dict[str, Any]:
    """For who bought these items, a day apart."""
    events = [{"parent_asin": f"B{item}", "timestamp": START + day * DAY} for day, item in enumerate(items)]
    return {"history": events, "k": k, "tower": tower}


USERS = {"ann": request([3, 1, 2])["history"], "bob/é": request([5])["history"], "new": []}  # the service knows them


@dataclass
class Store:
    """A registry of the model `shop`; titles tell which version gave an answer: `Version 2` are those of 2."""

    root: Path
    client: Any
    versions: list[int] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.root}/mlruns/mlflow.db"

    def alias(self, version: int) -> None:
        self.client.set_registered_model_alias("shop", "staging", str(version))

    def stored(self, version: int) -> Path:
        """The folder in which MLflow keeps a version."""
        source = self.client.get_model_version("shop", str(version)).source
        return Path(
            self.client.get_logged_model(source.removeprefix("models:/")).artifact_location.removeprefix("file://")
        )


@pytest.fixture(scope="session")
def store(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """1 is the tiny bundle; 2 has other titles; 3 fails its self-test, though all its files are as registered."""
    import mlflow
    import polars as pl
    from mlflow import MlflowClient

    from llmsrec.registry import tracking
    from llmsrec.registry.record import Record

    root = tmp_path_factory.mktemp("shop")
    with tracking.connected(root) as client:
        place = tracking.experiment(client, "shop", root)
        run = tracking.ensure_run(client, place, Record(digest="s" * 64, name="s", params={}, evaluation={}, curve=[]))
        for number in (1, 2, 3):
            made = tmp_path_factory.mktemp("bundle") / "bundle"
            bundle = Path(shutil.copytree(tiny.bundle, made, ignore=shutil.ignore_patterns("__pycache__")))
            if number > 1:
                items = pl.read_parquet(bundle / "items.parquet")
                items.with_columns(title=pl.lit(f"Version {number}")).write_parquet(bundle / "items.parquet")
            if number == 3:
                code = bundle / "code/llmsrec/serving/recommender.py"
                code.write_text(code.read_text().replace("used=len(history.items)", "used=99"))
            seal(bundle)
            assert tracking.ensure_version(client, place, run, "shop", bundle, {}) == number
    made_store = Store(root, MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db"), [1, 2, 3])
    made_store.alias(1)
    mlflow.set_tracking_uri("")
    yield made_store


@dataclass
class Running:
    """A service that runs."""

    process: "subprocess.Popen[bytes]"
    log: Path
    port: int = 0

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(self, body: Any, path: str = "/invocations", **headers: str) -> tuple[int, Any, dict[str, str]]:
        """POST a body; GET without one. Status, what came back as JSON or text, headers."""
        connection = self.connection()
        try:
            if body is None:
                connection.request("GET", path, headers=headers)
            else:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            text = response.read()
            named = {name.lower(): value for name, value in response.getheaders()}
            is_json = text.strip() and named.get("content-type") == "application/json" and path != "/version"
            return response.status, json.loads(text) if is_json else text.decode(), named
        finally:
            connection.close()

    def until(self, holds: Callable[[Any], bool], seconds: float = LOADS_S) -> Any:
        """What /readyz says once it says so."""
        end = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, self.log.read_text()
            said: Any = None
            try:
                said = self.ask(None, "/readyz")[1]
                if holds(said):
                    return said
            except OSError:
                pass
            assert time.monotonic() < end, (said, self.log.read_text())
            time.sleep(0.05)

    def ready(self, version: int) -> Any:
        return self.until(lambda said: said["ready"] and said["version"] == str(version))

    def metric(self, name: str) -> float:
        """The sum of a metric's figures over all labels that `name` leaves open, such as `llmsrec_calls_total`."""
        text = self.ask(None, "/metrics")[1]
        lines = [line for line in text.splitlines() if line.startswith(name)]
        assert lines, (name, text)
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=120)


def raw(service: Running, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that comes back for bytes that are sent piece by piece."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        received = b""
        while data := connection.recv(2**16):
            received += data
        return received


def post(body: bytes, close: bool = True) -> bytes:
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + (b"Connection: close\r\n" if close else b"") + b"Content-Length: %d\r\n\r\n" % len(body) + body


def serve(
    store: Store, folder: Path, *options: str, model: str = "models:/shop@staging", first: str = "", **environment: str
) -> Running:
    """Start `llmsrec serve`.

    Args:
        first: Python that runs before it, such as what makes a limit shorter.
    """
    log, port = folder / f"log{len(list(folder.iterdir()))}", free_port()
    command = [sys.executable, "-c", first + MAIN, "serve", model, "--port", str(port)]
    named = os.environ | {"MLFLOW_TRACKING_URI": store.uri, "DVC_ROOT": str(store.root), **environment}
    with log.open("w") as output:
        process = subprocess.Popen([*command, *options], env=named, stdout=output, stderr=output)
    return Running(process, log, port)


@pytest.fixture(scope="session")
def service(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Both towers of version 1, not following, with a log of all requests."""
    folder = tmp_path_factory.mktemp("service")
    asked = str(folder / "requests.jsonl")
    users = folder / "users.jsonl"
    users.write_text("".join(json.dumps({"user_id": user, "history": of}) + "\n" for user, of in USERS.items()))
    options = ("--log-requests", asked, "--log-share", "1", "--drain", "0.1", "--users", str(users))
    running = serve(store, folder, *options, model="models:/shop/1", LLMSREC_LOG_KEY="key")
    try:
        running.ready(1)
        yield running
    finally:
        assert running.end() == 0, running.log.read_text()
