"""`make screenshots`: pictures of MLflow's own pages for the documents, from the runs in mlruns/ -> docs/images/.

Needs Chromium (Debian: apt-get install chromium). A and B are what `llmsrec compare` takes; B must be a version.
"""

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image

from llmsrec import params as parameters
from llmsrec.errors import DataError, LLMSRecError
from llmsrec.registry import names, tracking
from llmsrec.registry.address import tracking_uri

IMAGES = Path("docs/images")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT_S, WAIT_MS = 120, 60_000


@contextmanager
def served(store: str) -> Iterator[str]:
    """An MLflow server on a free local port; gives its address.

    Args:
        store: the database's URL.

    Raises:
        DataError: it ended, or did not answer in two minutes.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = ["mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, "--workers", "1"], env={**os.environ, **quiet}, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + WAIT_S
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise DataError(f"`{' '.join(command)}` does not answer: {log.read()[-2000:]}")
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=1):
            return True
    except (URLError, OSError):
        return False


@contextmanager
def browser(height: int = 1000) -> Iterator[Any]:
    """A page of headless Chromium, 1,400 pixels wide; nothing is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = chromium.new_page(viewport={"width": 1400, "height": height})
            page.set_default_timeout(WAIT_MS)
            yield page
        finally:
            chromium.close()


def open_comparison(page: Any, address: str, runs: list[str], experiment: str) -> None:
    """MLflow's page of several runs side by side, as it is after ticking them and pressing "Compare"."""
    page.goto(f"{address}/#/compare-runs?runs={json.dumps(runs)}&experiments={json.dumps([experiment])}")
    page.get_by_text("Run details").wait_for()


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__.split("\n")[0])
    options.add_argument("a", metavar="A")
    options.add_argument("b", metavar="B")
    chosen = options.parse_args(arguments)
    if CHROMIUM is None:
        raise DataError("no Chromium here; Debian: apt-get install chromium.")
    root = Path.cwd()
    with tracking.existing(root, "Run this again") as client:
        model = parameters.load(root / "params.yaml").registry.model
        a, b = (names.find(client, root, model, name) for name in (chosen.a, chosen.b))
        if b.version is None:
            raise DataError(f"{b.name} is no registered version; name one as B (`llmsrec compare`).")
        experiment = client.get_run(b.run_id).info.experiment_id
    with served(tracking_uri(root)) as address, browser(height=1600) as page:
        open_comparison(page, address, [a.run_id, b.run_id], experiment)
        _without_assistant(page)
        for part in ("Parameters", "Metrics"):
            page.get_by_role("switch", name=f"{part} - Show diff only").click()
        _save(page, "compare")
        name, version = b.version.split("/")
        page.goto(f"{address}/#/models/{name}/versions/{version}")
        page.get_by_text("Source Run").first.wait_for()
        _save(page, "version")


def _without_assistant(page: Any) -> None:
    close = page.get_by_role("button", name="Close")
    if close.count():
        close.first.click()


def _save(page: Any, name: str) -> None:
    """As a PNG of 256 colours, which is a fraction of the size."""
    page.get_by_role("heading").first.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)  # plots move into their place
    path = IMAGES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except LLMSRecError as error:
        sys.exit(f"screenshots: {error}")
