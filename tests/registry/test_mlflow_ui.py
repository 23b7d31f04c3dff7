"""MLflow's own pages in headless Chromium: what a person sees of two runs, without any preparation."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def server(pair: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "server", "--backend-store-uri", pair.uri, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--workers", "1"], env={**os.environ, **quiet}, stdout=output, stderr=output
        )
    try:
        yield _wait(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        process.wait(30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(f"{address}/health", timeout=1):
                return address
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1500, "height": 1000})
        browser.close()


def test_the_compare_page_shows_both_runs_parameter_and_metric(pair: Any, server: str, page: Any) -> None:
    client = MlflowClient(pair.uri)
    runs = [client.get_run(run_id) for run_id in (pair.full, pair.ablated)]
    place = runs[0].info.experiment_id
    page.goto(f"{server}/#/compare-runs?runs={json.dumps([pair.full, pair.ablated])}&experiments={json.dumps([place])}")
    parameter = page.get_by_role("row").filter(has_text="model.uniform")
    parameter.wait_for(timeout=60_000)
    assert sorted(parameter.inner_text().split()) == ["False", "True", "model.uniform"]
    page.get_by_role("link", name="test/uni99/ndcg_10", exact=True).wait_for()  # its row among the metrics
    for run in runs:
        value = f"{run.data.metrics['test/uni99/ndcg_10']:.5f}"  # in the plot, which takes this metric by itself
        for shown in (run.info.run_name, value):
            page.get_by_text(shown, exact=True).first.wait_for()
