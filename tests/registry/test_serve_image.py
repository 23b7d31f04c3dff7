"""docker/serve.py, as the images run it: a real process that verifies, loads and answers over HTTP."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient

from llmsrec.registry import tracking
from llmsrec.registry.verified import MODEL
from llmsrec.serving import limits
from tests.servers import free_port, until_up

SERVE = Path(__file__).parents[2] / "docker/serve.py"
EVENT = {"parent_asin": "B1", "timestamp": 1_391_040_000_000}
SMALL = {"history": [EVENT], "k": 3, "tower": "cf"}


def start(registry: Any, uri: str, port: int, log: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"MODEL_URI": uri, "MLFLOW_TRACKING_URI": registry.uri, "PORT": str(port)}
    with log.open("w") as output:
        return subprocess.Popen([sys.executable, str(SERVE)], env=environment, stdout=output, stderr=output)


@pytest.fixture(scope="module")
def url(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("service") / "log"
    service = start(registry, "models:/llm-srec@candidate", port, log)
    try:
        until_up(f"http://127.0.0.1:{port}/ping", service, log)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=60) == 0, log.read_text()


def post(url: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_request_is_answered_by_the_versions_own_code(url: str) -> None:
    status, answer = post(url, {"inputs": [SMALL]})
    assert status == 200 and len(answer["predictions"][0]["items"]) == 3


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ({"inputs": [SMALL] * 5000}, "application/json", 400),
        ({"inputs": [{**SMALL, "k": limits.ITEMS}] * 2}, "application/json", 400),
        ({"inputs": [{**SMALL, "history": [EVENT] * 1001}]}, "application/json", 400),
        ({"inputs": [{**SMALL, "history": [{**EVENT, "parent_asin": "x" * 10_000}]}]}, "application/json", 400),
        ({"inputs": [SMALL, {"k": 3}]}, "application/json", 400),
        ({"dataframe_records": [SMALL]}, "application/json", 400),
        (b'{"inputs": [{"k": 1' + b"0" * 4400 + b"}]}", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"x" * 9_000_000, "application/json", 413),
        (b"history,k\n1,2", "text/csv", 415),
    ],
)
def test_what_cannot_be_served_is_one_short_sentence(url: str, body: Any, kind: str, status: int) -> None:
    answered, answer = post(url, body, kind)
    assert (answered, set(answer)) == (status, {"error_code", "message"})
    assert "\n" not in answer["message"] and len(answer["message"]) < 400
    assert "Traceback" not in answer["message"]


@pytest.mark.parametrize("tower", ["cf", "llm"])
def test_a_small_request_is_answered_while_the_largest_runs(url: str, tower: str) -> None:
    events = [{**EVENT, "parent_asin": f"B{1 + n % 30}"} for n in range(limits.EVENTS // limits.REQUESTS)]
    large = {"inputs": [{"history": events[:20], "k": 30, "tower": tower}] * limits.REQUESTS}
    answers: list[tuple[int, float]] = []

    def ask() -> None:
        status, _ = post(url, large)
        answers.append((status, time.monotonic()))

    running = threading.Thread(target=ask)
    running.start()
    time.sleep(0.2)
    began = time.monotonic()
    assert post(url, {"inputs": [SMALL]})[0] == 200
    ended = time.monotonic()
    running.join()
    assert answers[0][0] == 200
    assert ended - began < 2 or ended < answers[0][1], "it did not wait for the large one"


def refused(registry: Any, uri: str, folder: Path) -> str:
    process = start(registry, uri, free_port(), folder / "log")
    assert process.wait(timeout=120) == 1
    said = [line for line in (folder / "log").read_text().splitlines() if '"message": "loading"' not in line]
    assert len(said) == 1, said
    return said[0]


def test_what_is_not_what_was_registered_is_not_run(registry: Any, tmp_path: Path) -> None:
    client, ran = MlflowClient(registry.uri), tmp_path / "ran"
    experiment = client.get_experiment_by_name("llm-srec").experiment_id
    bundle = Path(shutil.copytree(registry.bundle, tmp_path / "bundle"))
    with tracking.connected(registry.root) as connected:
        tracking.ensure_version(connected, experiment, registry.run_id, "served", bundle, {})
    version = client.get_model_version("served", "1")
    stored = Path(urlsplit(client.get_logged_model(version.source.removeprefix("models:/")).artifact_location).path)
    code = (stored / "pyfunc.py").read_text()
    (stored / "pyfunc.py").write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n{code}")
    try:
        assert "pyfunc.py, which MLflow runs, is not the code" in refused(registry, "models:/served/1", tmp_path)
    finally:
        (stored / "pyfunc.py").write_text(code)  # other tests share it
    assert not ran.exists()
    client.delete_model_version_tag("served", "1", MODEL)
    assert "has no tag model_sha256" in refused(registry, "models:/served/1", tmp_path)
    assert "names no version" in refused(registry, str(stored), tmp_path)
