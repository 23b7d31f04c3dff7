"""`llmsrec serve` beside `mlflow models serve`, on one bundle in one run: closed and open loop, swaps.

python -m benchmarks.service [--bundle models/bundle] [--seconds 5] [--towers cf,llm] [--swaps 10] [--kept 256]
    [--torch] [--json FILE]

With `--torch` a third service stands beside them: ours with the language model on torch.

The same 512 histories are asked for in turn, so that `llm` begins where it knows them (`engine/kept.py`), but for
`--kept 0`. The clients run in this process, on the same cores as both services; so what counts is the ratio of the two.
Answers that are no 200 are counted apart and never as served. MLflow's goes on with calls whose clients have left, so
it stands still while another service is measured.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import polars as pl

from benchmarks import common
from benchmarks.clients import Measured, closed, opened
from llmsrec.files import read_json
from llmsrec.registry import tracking
from llmsrec.registry.record import Record
from llmsrec.serving.bundle import seal

CLIENTS = (1, 8, 32, 64)
REQUESTS, K = 512, 10  # different requests, asked in turn
START, DAY = 1_391_040_000_000, 86_400_000  # ms
NAME = "served"
TITLE = b'"title":"'
WAITING = re.compile(rb"(?m)^llmsrec_waiting_requests\{.*\} (.*)$")
MARKED, SECOND = f"{NAME}/2: ".encode(), f"x-llmsrec-version: {NAME}/2\r\n".encode()  # titles and heads of version 2
CONNECTIONS = 256  # of an open loop
GOALS = {"cf": 500.0, "llm": 8.0}  # calls a second, of 32 connections
FIRST_S = 600.0  # the longest that users may take to be there for the first time
SWAPS_S = 600.0  # the longest that all swaps may take


def bodies(bundle: Path, tower: str, seed: int = 1) -> list[bytes]:
    """Calls of one request each, with histories of 1 to 20 items of the catalogue."""
    random = np.random.default_rng(seed)
    asins = pl.read_parquet(bundle / "items.parquet")["parent_asin"].to_list()
    made = []
    for _ in range(REQUESTS):
        bought = random.choice(len(asins), size=random.integers(1, min(21, len(asins) // 2)), replace=False)
        events = [{"parent_asin": asins[item], "timestamp": START + day * DAY} for day, item in enumerate(bought)]
        made.append(json.dumps({"inputs": [{"history": events, "k": K, "tower": tower}]}).encode())
    return made


@contextmanager
def registered(bundle: Path, root: Path, versions: int) -> Iterator[Any]:
    """A registry of its own with the bundle as so many versions; their MLflow client.

    The first is the bundle as it is; titles of others begin with `<name>/<version>: `.
    """
    with tracking.connected(root) as client:
        place = tracking.experiment(client, NAME, root)
        for number in range(1, versions + 1):
            record = Record(digest=f"{number}" * 64, name=str(number), params={}, evaluation={}, curve=[])
            run = tracking.ensure_run(client, place, record)
            copy = root / f"{number}/bundle"  # MLflow keeps it under its own name
            shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("__pycache__"))
            if number > 1:
                items = pl.read_parquet(copy / "items.parquet")
                marked = pl.lit(f"{NAME}/{number}: ") + pl.col("title")
                items.with_columns(title=marked).write_parquet(copy / "items.parquet")
            seal(copy)
            tracking.ensure_version(client, place, run, NAME, copy, {})
        client.set_registered_model_alias(NAME, "staging", "1")
        yield client


@dataclass(frozen=True)
class Running:
    """A service that is ready."""

    port: int
    pid: int


@contextmanager
def running(command: list[str], root: Path, path: str = "/ping", **variables: str) -> Iterator[Running]:
    """A service, once `path` is 200; `variables` of its environment come before those that are usual."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlruns/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **variables,
    }
    with (root / "log").open("a") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (root / "log").read_text()[-2000:]
                time.sleep(0.2)
        yield Running(port, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def ours(*options: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("llmsrec")),
        "serve",
        f"models:/{NAME}@staging",
        "--drain",
        "0",
        *options,
    ]


def mlflows() -> list[str]:
    return [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}/1", "--env-manager", "local"]


def line(name: str, *values: str) -> None:
    print(f"{name:<42}" + "".join(f"{value:>13}" for value in values), flush=True)


def compare(services: dict[str, Running], bundle: Path, tower: str, seconds: float) -> dict[str, Any]:
    """Closed loop, then half of MLflow's best rate in an open loop: one service after the other. At last ours alone."""
    figures: dict[str, Any] = {}
    best: dict[str, float] = {}
    of = bodies(bundle, tower)
    for clients in CLIENTS:
        both = {}
        for name, service in services.items():
            with alone(services, name):
                closed(service.port, of, clients, min(1.0, seconds))  # warm
                both[name] = accounted(service.pid, partial(closed, service.port, of, clients, seconds))
        for name, measured in both.items():
            best[name] = max(best.get(name, 0.0), measured.rate)
            line(f"{tower}, {clients} clients, {name}", *measured.shown())
            figures[f"{tower}/{clients}/{name}"] = measured.figures()
        for name in [name for name in both if name != "llmsrec"]:
            ratio = both["llmsrec"].rate / (both[name].rate or float("nan"))
            line(f"{tower}, {clients} clients: times {name}", f"{ratio:.1f}")
            figures[f"{tower}/{clients}/ratio to {name}"] = ratio
    for name, measured in both.items():
        shown = f"{measured.cost:.2f}", f"{measured.narrowest:.2f}"
        line(f"  processor ms a call, most of one: {name}", *shown)
        figures[f"{tower}/cost/{name}"] = {"all_ms": measured.cost, "narrowest_ms": measured.narrowest}
    half = best["mlflow"] / 2
    for name, service in services.items():
        with alone(services, name):
            measured = opened(service.port, of, half, seconds, CONNECTIONS)
        line(f"{tower}, open loop {half:.0f}/s, {name}", *measured.shown())
        figures[f"{tower}/open/{name}"] = measured.figures() | {"offered": half}
    with alone(services, "llmsrec"):
        return figures | wanted(services["llmsrec"].port, bundle, tower, seconds)


def wanted(port: int, bundle: Path, tower: str, seconds: float) -> dict[str, Any]:
    """Calls in an open loop at the rate that is wanted: of new users, and where prompts are kept of users who were
    there before their last event: all, and those of whom the prompt still begins with the same item.
    """
    history = read_json(bundle / "config.json")["prompts"]["history"]
    users = {"new users": (0, REQUESTS)}
    if tower == "llm":
        users |= {"who come back": (1, REQUESTS), f"who come back, up to {history} items": (1, history)}
    figures = {}
    for seed, (who, (least, most)) in enumerate(users.items(), start=2):
        calls = [call for call in bodies(bundle, tower, seed) if least <= length(call) <= most]
        calls = calls[: int(GOALS[tower] * seconds) + 1]
        settled(port)
        if least:
            first = closed(port, [without_last(call) for call in calls], 2, FIRST_S, most=len(calls))
            assert first.times.keys() == {200}, "who was not answered does not come back"
        measured = opened(port, calls, GOALS[tower], seconds, 32)
        line(f"{tower}, {GOALS[tower]:.0f}/s, {who}", *measured.shown())
        figures[f"{tower}/wanted/{who}"] = measured.figures() | {"offered": GOALS[tower]}
    return figures


def settled(port: int) -> None:
    """Wait until our service has answered what was asked before; MLflow's does not say."""
    while True:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            waiting = WAITING.findall(response.read())
        if not any(map(float, waiting)):
            return
        time.sleep(0.2)


@contextmanager
def alone(services: dict[str, Running], name: str) -> Iterator[None]:
    """While MLflow's is stopped, but for itself, and ours has answered what was asked before."""
    group = services["mlflow"].pid
    if name == "mlflow":
        yield
        return
    os.killpg(group, signal.SIGSTOP)
    try:
        settled(services[name].port)
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


def length(call: bytes) -> int:
    """Events of the history that a call holds."""
    return len(json.loads(call)["inputs"][0]["history"])


def without_last(call: bytes) -> bytes:
    """The call of a user whose last event has not happened yet."""
    asked = json.loads(call)
    asked["inputs"][0]["history"].pop()
    return json.dumps(asked).encode()


def processor_time(pids: list[int]) -> float:
    """Seconds of a core that processes have used so far."""
    used = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def accounted(pid: int, clients: Callable[[], Measured]) -> Measured:
    """What clients met, with the processor time that each process of a service used meanwhile."""
    pids = descendants(pid)
    before = [processor_time([each]) for each in pids]
    measured = clients()
    measured.processors = [processor_time([each]) - then for each, then in zip(pids, before, strict=True)]
    return measured


def descendants(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in descendants(int(child)))]


def version(port: int) -> str:
    """The number of the version that answers."""
    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as response:
        return str(json.load(response)["version"])


def swaps(root: Path, client: Any, of: list[bytes], count: int) -> dict[str, Any]:
    """Calls while the alias moves to and fro; an answer is mixed if some title is not of the version that it names."""

    def move(port: int) -> None:
        for number in range(count):
            wanted = str(2 - number % 2)
            client.set_registered_model_alias(NAME, "staging", wanted)
            while version(port) != wanted:
                time.sleep(0.1)

    mixed = 0

    def heard(head: bytes, content: bytes) -> None:
        nonlocal mixed
        of_second = SECOND in head
        titles, marked = content.count(TITLE), content.count(TITLE + MARKED)
        mixed += marked != (titles if of_second else 0)

    with running(ours("--no-llm", "--poll", "0.2"), root) as service:
        moving = threading.Thread(target=move, args=(service.port,))
        moving.start()
        measured = closed(service.port, of, 8, SWAPS_S, pause_s=0.02, done=lambda: not moving.is_alive(), heard=heard)
        moving.join()
    served = len(measured.times.get(200, []))
    broken = sum(len(times) for status, times in measured.times.items() if status != 200)
    line(f"{count} swaps: served, failed, mixed", f"{served:,}", f"{broken}", f"{mixed}")
    return {"swaps": {"served": served, "failed": broken, "mixed": mixed}}


def main() -> None:
    parser = argparse.ArgumentParser(description="llmsrec serve beside mlflow models serve.")
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--towers", default="cf,llm")
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--kept", type=int, default=256, help="MB, see `llmsrec serve` (default: %(default)s)")
    parser.add_argument("--torch", action="store_true", help="beside both, `llmsrec serve --torch`")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    print(common.machine())
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        with registered(options.bundle, root, 2) as client:
            towers = options.towers.split(",")
            line("", "served", "p50 ms", "p99 ms", "failed")
            command = ours("--poll", "3600", "--kept", str(options.kept))
            sides = {"llmsrec": command, "mlflow": mlflows()}
            if options.torch:
                sides = {"llmsrec": command, "llmsrec --torch": [*command, "--torch"], "mlflow": mlflows()}
            with ExitStack() as stack:
                services = {name: stack.enter_context(running(side, root)) for name, side in sides.items()}
                for tower in towers:
                    figures |= compare(services, options.bundle, tower, options.seconds)
            if options.swaps:
                figures |= swaps(root, client, bodies(options.bundle, "cf"), options.swaps)
    common.write(options.json, figures)


if __name__ == "__main__":
    main()
