"""`llmsrec serve` beside `mlflow models serve`, on one bundle in one run: closed and open loop, overload, swaps.

python -m benchmarks.service [--bundle models/bundle] [--seconds 5] [--towers cf,llm] [--swaps 10] [--json FILE]

The clients run in this process, on the same cores as both services; so what counts is the ratio of the two. Answers
that are no 200 are counted apart and never as served.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import polars as pl
from uvicorn import Config

from benchmarks import common
from llmsrec.registry import tracking
from llmsrec.registry.record import Record
from llmsrec.serving.bundle import seal

CLIENTS = (1, 8, 32)
REQUESTS, K = 512, 10  # different requests, asked in turn
START, DAY = 1_391_040_000_000, 86_400_000  # ms
NAME = "served"
CONNECTIONS = 256  # of an open loop
WAITING = 32  # requests that may wait, where ten times as many are sent
HEAD = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
LENGTH, RETRY = re.compile(rb"(?i)content-length: *(\d+)"), re.compile(rb"(?i)retry-after: *(\d+)")


@dataclass
class Measured:
    """What clients met: seconds of each answer by status, how long they asked; processor time of each process."""

    seconds: float = 0.0
    times: dict[int, list[float]] = field(default_factory=dict)
    processors: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Served calls a second."""
        return len(self.times.get(200, [])) / self.seconds

    def ms(self, share: float, status: int = 200) -> float:
        """A percentile of the answers with this status, in ms."""
        times = self.times.get(status)
        return float(np.quantile(times, share)) * 1000 if times else float("nan")

    @property
    def failed(self) -> int:
        """Answers that are neither served nor told to come again."""
        return sum(len(times) for status, times in self.times.items() if status not in (200, 429))

    def shown(self) -> list[str]:
        """Cells of a line."""
        return [f"{self.rate:,.0f}/s", f"{self.ms(0.5):.1f}", f"{self.ms(0.99):.1f}", str(self.failed)]

    @property
    def cost(self) -> float:
        """Processor time of a served call in ms, all processes of the service together."""
        return 1000 * sum(self.processors) / max(1, len(self.times.get(200, [])))

    @property
    def narrowest(self) -> float:
        """The same of the process that needs most: a core for each, and this is what bounds the rate."""
        return 1000 * max(self.processors, default=0.0) / max(1, len(self.times.get(200, [])))

    def figures(self) -> dict[str, float]:
        """For the file."""
        return {"rate": self.rate, "p50_ms": self.ms(0.5), "p99_ms": self.ms(0.99), "failed": self.failed}


class Client(asyncio.Protocol):
    """One connection that asks and waits, at as little processor time as may be: it shares the service's cores."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = b""

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Status and head of the answer; status 0 where the connection broke."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            try:
                self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
            except OSError:
                return 0, b""
        self._answer = loop.create_future()
        self._transport.write(HEAD % len(body) + body)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, content = self._received.partition(b"\r\n\r\n")
        if blank and len(content) >= int(LENGTH.search(head)[1]):  # type: ignore[index]
            self._received = b""
            self._end(int(head[9:12]), head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self._received = None, b""
        self._end(0, b"")

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def _end(self, status: int, head: bytes) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result((status, head))


def play(coroutine: Coroutine[Any, Any, Measured]) -> Measured:
    """Run clients on the loop that the service has, too."""
    with asyncio.Runner(loop_factory=Config("", loop="auto").get_loop_factory()) as runner:
        return runner.run(coroutine)


async def closed(port: int, bodies: list[bytes], clients: int, seconds: float, patient: bool = False) -> Measured:
    """Clients that ask again as soon as they are answered; patient ones wait as long as Retry-After says."""
    measured, began = Measured(), time.perf_counter()

    async def work(number: int) -> None:
        client, turn = Client(port), number * 7
        while (start := time.perf_counter()) - began < seconds:
            status, head = await client.ask(bodies[turn % len(bodies)])
            measured.times.setdefault(status, []).append(time.perf_counter() - start)
            turn += 1
            if patient and (after := RETRY.search(head)):
                await asyncio.sleep(min(float(after[1]), max(0.0, began + seconds - time.perf_counter())))
        client.close()

    await asyncio.gather(*(work(number) for number in range(clients)))
    measured.seconds = time.perf_counter() - began
    return measured


async def opened(port: int, bodies: list[bytes], rate: float, seconds: float, connections: int) -> Measured:
    """Requests that come at random times, `rate` a second, whether the others are answered or not.

    They share a bounded number of connections; one that finds none free waits, and its time runs from when it came.
    """
    random, measured = np.random.default_rng(0), Measured()
    due = np.cumsum(random.exponential(1 / rate, max(1, int(rate * seconds)))).tolist()
    coming, began = iter(enumerate(due)), time.perf_counter()

    async def work() -> None:
        client = Client(port)
        for number, at in coming:
            if (early := began + at - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            status, _ = await client.ask(bodies[number % len(bodies)])
            measured.times.setdefault(status, []).append(time.perf_counter() - began - at)
        client.close()

    await asyncio.gather(*(work() for _ in range(min(connections, len(due)))))
    measured.seconds = time.perf_counter() - began
    return measured


def bodies(bundle: Path, tower: str) -> list[bytes]:
    """Calls of one request each, with histories of 1 to 20 items of the catalogue."""
    random = np.random.default_rng(1)
    asins = pl.read_parquet(bundle / "items.parquet")["parent_asin"].to_list()
    made = []
    for _ in range(REQUESTS):
        bought = random.choice(len(asins), size=random.integers(1, min(21, len(asins) // 2)), replace=False)
        events = [{"parent_asin": asins[item], "timestamp": START + day * DAY} for day, item in enumerate(bought)]
        made.append(json.dumps({"inputs": [{"history": events, "k": K, "tower": tower}]}).encode())
    return made


@contextmanager
def registered(bundle: Path, root: Path, versions: int) -> Iterator[Any]:
    """A registry of its own with the bundle as so many versions; their MLflow client."""
    with tracking.connected(root) as client:
        place = tracking.experiment(client, NAME, root)
        for number in range(1, versions + 1):
            record = Record(digest=f"{number}" * 64, name=str(number), params={}, evaluation={}, curve=[])
            run = tracking.ensure_run(client, place, record)
            copy = root / f"{number}/bundle"  # MLflow keeps it under its own name
            shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("__pycache__"))
            (copy / "parity.json").write_text(json.dumps({"version": number}))
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
def running(command: list[str], root: Path) -> Iterator[Running]:
    """A service, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlruns/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (root / "log").open("a") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
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


def compare(services: dict[str, Running], of: list[bytes], tower: str, seconds: float) -> dict[str, Any]:
    """Closed loop, then half of MLflow's best rate in an open loop: one service after the other."""
    figures: dict[str, Any] = {}
    best: dict[str, float] = {}
    for clients in CLIENTS:
        both = {}
        for name, service in services.items():
            play(closed(service.port, of, clients, min(1.0, seconds)))  # warm
            pids = descendants(service.pid)
            before = [processor_time([pid]) for pid in pids]
            both[name] = play(closed(service.port, of, clients, seconds))
            both[name].processors = [processor_time([pid]) - then for pid, then in zip(pids, before, strict=True)]
        for name, measured in both.items():
            best[name] = max(best.get(name, 0.0), measured.rate)
            line(f"{tower}, {clients} clients, {name}", *measured.shown())
            figures[f"{tower}/{clients}/{name}"] = measured.figures()
        ratio = both["llmsrec"].rate / both["mlflow"].rate
        line(f"{tower}, {clients} clients: times as many", f"{ratio:.1f}")
        figures[f"{tower}/{clients}/ratio"] = ratio
    for name, measured in both.items():
        shown = f"{measured.cost:.2f}", f"{measured.narrowest:.2f}"
        line(f"  processor ms a call, most of one: {name}", *shown)
        figures[f"{tower}/cost/{name}"] = {"all_ms": measured.cost, "narrowest_ms": measured.narrowest}
    half = best["mlflow"] / 2
    for name, service in services.items():
        measured = play(opened(service.port, of, half, seconds, CONNECTIONS))
        line(f"{tower}, open loop {half:.0f}/s, {name}", *measured.shown())
        figures[f"{tower}/open/{name}"] = measured.figures() | {"offered": half}
    return figures


def overload(root: Path, of: list[bytes], tower: str, seconds: float) -> dict[str, Any]:
    """Ten times what can be served: how much of the peak is, and how soon the others hear 429."""
    figures: dict[str, Any] = {}
    with running(ours("--poll", "3600", "--waiting", str(WAITING)), root) as service:
        play(closed(service.port, of, WAITING, min(1.0, seconds)))
        peak = play(closed(service.port, of, WAITING, seconds)).rate
        line(f"{tower}, {WAITING} clients, as many may wait", f"{peak:,.0f}/s")
        ways: dict[str, Callable[[], Coroutine[Any, Any, Measured]]] = {
            f"open loop, {10 * peak:,.0f}/s": lambda: opened(service.port, of, 10 * peak, seconds, 10 * WAITING),
            f"{10 * WAITING} clients, patient": lambda: closed(service.port, of, 10 * WAITING, seconds, patient=True),
            f"{10 * WAITING} clients, at once": lambda: closed(service.port, of, 10 * WAITING, seconds),
        }
        for name, way in ways.items():
            over = play(way())
            refused = len(over.times.get(429, [])) / over.seconds
            line(f"  {name}", *over.shown())
            line("    of the peak; 429: a second, p50, p99 ms", f"{over.rate / peak:.2f}", f"{refused:,.0f}/s",
                 f"{over.ms(0.5, 429):.1f}", f"{over.ms(0.99, 429):.1f}")  # fmt: skip
            figures[f"{tower}/overload/{name.partition(',')[0]}"] = over.figures() | {
                "goodput": over.rate / peak, "refused": refused, "refused_p99_ms": over.ms(0.99, 429)
            }  # fmt: skip
    return figures


def processor_time(pids: list[int]) -> float:
    """Seconds of a core that processes have used so far."""
    used = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def descendants(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in descendants(int(child)))]


def version(port: int) -> str:
    """The number of the version that answers."""
    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as response:
        return str(json.load(response)["version"])


def swaps(root: Path, client: Any, of: list[bytes], count: int) -> dict[str, Any]:
    """Calls while the alias moves to and fro."""
    measured = Measured()

    async def playing(port: int) -> None:
        done = asyncio.Event()

        async def ask(number: int) -> None:
            connection, turn = Client(port), number
            while not done.is_set():
                start = time.perf_counter()
                status, _ = await connection.ask(of[turn % len(of)])
                measured.times.setdefault(status, []).append(time.perf_counter() - start)
                turn += 1
                await asyncio.sleep(0.02)
            connection.close()

        async def move() -> None:
            for number in range(count):
                wanted = str(2 - number % 2)
                await asyncio.to_thread(client.set_registered_model_alias, NAME, "staging", wanted)
                while await asyncio.to_thread(version, port) != wanted:
                    await asyncio.sleep(0.1)
            done.set()

        await asyncio.gather(move(), *(ask(number) for number in range(8)))

    began = time.perf_counter()
    with running(ours("--no-llm", "--poll", "0.2"), root) as service:
        asyncio.run(playing(service.port))
    measured.seconds = time.perf_counter() - began
    served = len(measured.times.get(200, []))
    broken = sum(len(times) for status, times in measured.times.items() if status != 200)
    line(f"{count} swaps: served, failed", f"{served:,}", f"{broken}")
    return {"swaps": {"served": served, "failed": broken}}


def main() -> None:
    parser = argparse.ArgumentParser(description="llmsrec serve beside mlflow models serve.")
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--towers", default="cf,llm")
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    print(common.machine())
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        with registered(options.bundle, root, 2) as client:
            towers = options.towers.split(",")
            line("", "served", "p50 ms", "p99 ms", "failed")
            with running(ours("--poll", "3600"), root) as service, running(mlflows(), root) as other:
                for tower in towers:
                    both = {"llmsrec": service, "mlflow": other}
                    figures |= compare(both, bodies(options.bundle, tower), tower, options.seconds)
            for tower in towers:
                figures |= overload(root, bodies(options.bundle, tower), tower, options.seconds)
            if options.swaps:
                figures |= swaps(root, client, bodies(options.bundle, "cf"), options.swaps)
    common.write(options.json, figures)


if __name__ == "__main__":
    main()
