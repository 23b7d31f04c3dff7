"""Workers that hang without dying, and those that are only slow: real processes and real signals."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmsrec.service import workers
from llmsrec.service.metrics import Metrics
from llmsrec.service.silence import delayed_s
from llmsrec.service.swap import Swap
from llmsrec.service.workers import Settings, Worker
from llmsrec.serving.bundle import seal
from tests.service.conftest import Running, Store, request, serve
from tests.service.test_swap import Load, worker_of

DEADLINE_S = 2.0
PATIENCE_S = 7.0
SHORTER = f"from llmsrec.service import workers\nworkers.HANGS_S = {PATIENCE_S}\n"
OTHERS = Settings(llm=False, rows=4, cost=4, wait_s=0.0, waiting=64, deadline_s=0.1)
RECOMMEND = "    def _recommend(self, requests: Sequence[Request]) -> list[Answer]:\n"
POISON = 7  # the `k` of requests that altered code is slow with, or never ends with
CF, LLM = {"inputs": [request([1, 2])]}, {"inputs": [request([1, 2], tower="llm")]}


@pytest.fixture(scope="module")
def service(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Both towers of the version that the alias names."""
    store.alias(1)
    options = ("--deadline", f"{DEADLINE_S:g}", "--drain", "0", "--poll", "0.2")
    running = serve(store, tmp_path_factory.mktemp("hang"), *options, first=SHORTER)
    try:
        running.ready(1)
        yield running
    finally:
        assert running.end() == 0, running.log.read_text()


def restarts(service: Running, reason: str) -> float:
    return service.metric(f'llmsrec_worker_restarts_total{{reason="{reason}",worker="llm"}}')


def workers_of(pid: int) -> set[int]:
    """The worker processes of a process that have begun to run."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {child for child in children if str(workers.MAIN) in Path(f"/proc/{child}/cmdline").read_text()}


def test_a_worker_that_is_stopped_is_started_again_and_the_other_answers_all_the_while(service: Running) -> None:
    old = worker_of(service, llm=True)
    with Load(service, 2, LLM) as stopped, Load(service, 2, CF) as other:
        stopped.until(10)
        began = time.monotonic()
        os.kill(old, signal.SIGSTOP)
        said = service.until(lambda said: not said["ready"], PATIENCE_S)
        assert said["workers"] == {"others": "ready", "llm": "silent"}
        assert time.monotonic() - began > DEADLINE_S
        service.until(lambda said: said["workers"]["llm"] == "starting")
        assert time.monotonic() - began > PATIENCE_S
        service.ready(1)
        stopped.until(len(stopped.answers) + 20)
    assert worker_of(service, llm=True) != old and not Path(f"/proc/{old}").exists()
    assert not stopped.broken and {status for status, _, _ in stopped.answers} <= {200, 429, 504}
    assert stopped.answers[-1][0] == 200
    assert not other.broken and {status for status, _, _ in other.answers} == {200}
    assert (restarts(service, "hung"), restarts(service, "died")) == (1, 0)
    (line,) = [line for line in service.lines if line["message"] == "a worker is started again"]
    assert (line["level"], line["tower"], line["reason"]) == ("error", "llm", "hung") and line["silent_s"] > PATIENCE_S


def test_a_service_that_was_stopped_with_its_workers_goes_on_with_them(service: Running) -> None:
    """A suspended machine, a paused container: all of them run on from where they were."""
    before, old = restarts(service, "hung"), worker_of(service, llm=True)
    with Load(service, 1, LLM) as load:
        load.until(5)
        os.kill(old, signal.SIGSTOP)
        time.sleep(1.5 * DEADLINE_S)  # it has work now
        os.kill(service.process.pid, signal.SIGSTOP)
        time.sleep(PATIENCE_S + 2)
        os.kill(service.process.pid, signal.SIGCONT)
        time.sleep(1)
        os.kill(old, signal.SIGCONT)
        load.until(len(load.answers) + 20)
    assert worker_of(service, llm=True) == old and restarts(service, "hung") == before
    assert load.answers[-1][0] == 200 and service.ready(1)["workers"] == {"others": "ready", "llm": "ready"}


def test_a_version_that_hangs_while_it_is_loaded_is_given_up_once_the_alias_names_another(
    store: Store, service: Running
) -> None:
    serving = {worker_of(service, llm) for llm in (False, True)}

    def running() -> set[int]:
        return workers_of(service.process.pid)

    def until(holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end, service.log.read_text()
            time.sleep(0.02)

    with Load(service, 2, CF) as load:
        store.alias(2)
        until(lambda: len(running()) == 4)
        loading = running() - serving
        for pid in loading:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
        assert running() == serving | loading, "nothing ends it while the alias names it"
        store.alias(1)
        until(lambda: running() == serving)
    assert not load.broken and {(status, said) for status, _, said in load.answers} == {(200, "shop/1")}
    assert service.ready(1)["refused"] is None
    assert any({"version": "shop/2", "for": "shop/1"}.items() <= line.items() for line in service.lines)


def test_sigterm_ends_a_service_whose_worker_hangs(store: Store, tmp_path: Path) -> None:
    running = serve(store, tmp_path, "--no-llm", "--deadline", "1", "--drain", "0", model="models:/shop/1")
    running.ready(1)
    worker = worker_of(running, llm=False)
    os.kill(worker, signal.SIGSTOP)
    with Load(running, 2, CF) as load:
        load.until(2)
        began = time.monotonic()
        assert running.end() == 0, running.log.read_text()
        assert time.monotonic() - began < 30
    assert {status for status, _, _ in load.answers} == {504}
    assert running.lines[-1]["message"] == "ended" and not Path(f"/proc/{worker}").exists()


def altered(tiny: Any, folder: Path, file: str, before: str, after: str) -> Path:
    """The tiny bundle with a change in its own code."""
    bundle = Path(shutil.copytree(tiny.bundle, folder, ignore=shutil.ignore_patterns("__pycache__")))
    path = bundle / "code/llmsrec/serving" / file
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    seal(bundle)
    return bundle


def test_a_request_that_the_code_never_ends_with_costs_a_restart_and_not_the_requests_behind_it(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endless loop, which takes all the processor time that it gets."""
    monkeypatch.setattr(workers, "HANGS_S", 3.0)
    loop = f"        while any(request.k == {POISON} for request in requests):\n            pass\n"
    bundle = altered(tiny, tmp_path / "bundle", "recommender.py", RECOMMEND, RECOMMEND + loop)
    reasons: list[str] = []

    async def asked() -> tuple[Any, int, float]:
        worker = Worker(bundle, OTHERS, lambda *_: None, reasons.append)
        await worker.start()

        async def ask(k: int, within_s: float) -> Any:
            body = json.dumps({"inputs": [request([1, 2], k=k)]}).encode()
            return await worker.ask("/invocations", body, [0], time.monotonic() + within_s)

        began = time.monotonic()
        poison = asyncio.create_task(ask(POISON, 0.5))
        await asyncio.sleep(0.1)
        behind = asyncio.create_task(ask(3, 120))
        with pytest.raises(TimeoutError):
            await poison
        reply = await behind
        took = time.monotonic() - began
        assert (await ask(3, 120)).status == 200
        waiting = worker.waiting
        await worker.close()
        return reply, waiting, took

    reply, waiting, took = asyncio.run(asked())
    assert (reply.status, waiting, reasons) == (200, 0, ["hung"])
    assert took > 3.0


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="what a process waits for is not known here")
def test_a_worker_that_waits_for_a_processor_is_not_one_that_hangs(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shares one with a process that computes all the time and gets 20 to 70 times as much of it."""
    monkeypatch.setattr(workers, "HANGS_S", 2.0)
    end = f"time.thread_time() + (0.15 if requests[0].k == {POISON} else 0)"
    lines = "".join(
        f"        {line}\n" for line in ("import time", f"end = {end}", "while time.thread_time() < end: pass")
    )
    bundle = altered(tiny, tmp_path / "bundle", "recommender.py", RECOMMEND, RECOMMEND + lines)
    processor, reasons = min(os.sched_getaffinity(0)), list[str]()
    spin = f"import os; os.sched_setaffinity(0, {{{processor}}})\nwhile True: pass"

    async def asked() -> tuple[int, float]:
        worker = Worker(bundle, OTHERS, lambda *_: None, reasons.append)
        await worker.start()
        assert worker.pid
        for thread in Path(f"/proc/{worker.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {processor})
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)
        body, began = json.dumps({"inputs": [request([1, 2], k=POISON)]}).encode(), time.monotonic()
        reply = await worker.ask("/invocations", body, [0], began + 300)
        took = time.monotonic() - began
        await worker.close()
        return reply.status, took

    with subprocess.Popen([sys.executable, "-c", spin]) as spinner:
        try:
            status, took = asyncio.run(asked())
        finally:
            spinner.kill()
    assert (status, reasons) == (200, [])
    assert took > workers.HANGS_S + 1, "it was starved, else this shows nothing"


def test_what_waits_for_nothing_is_not_delayed() -> None:
    for code in ("import time; time.sleep(60)", "while True: pass"):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            time.sleep(0.5)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.2)
            before = delayed_s(process.pid)
            time.sleep(0.5)
            assert delayed_s(process.pid) == before
            process.kill()
    assert delayed_s(2**22 + 1) == 0


@dataclass
class Folder:
    """A registry that stands for a bundle in a folder."""

    bundle: Path
    number: int = 1
    name: str = "shop"
    alias: str | None = None
    digest: str = ""

    def __str__(self) -> str:
        return f"shop/{self.number}"

    def version(self) -> "Folder":
        return Folder(self.bundle, self.number)

    def fetch(self, version: Any, into: Path) -> Path:
        return Path(shutil.copytree(self.bundle, into / "bundle"))


def test_a_version_that_hangs_while_it_is_loaded_is_refused_and_the_one_that_answers_is_not_touched(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = altered(
        tiny, tmp_path / "bundle", "recommender.py", "\nclass Recommender:", "\nwhile True: pass\n\nclass Recommender:"
    )
    registry, metrics = Folder(tiny.bundle), Metrics()

    async def refused() -> Any:
        versions = Swap(registry, [OTHERS], metrics, 1)
        await versions.first()
        assert versions.current
        serving = versions.current.workers["others"].pid
        monkeypatch.setattr(workers, "LOADS_S", 3)
        registry.bundle, registry.number = hangs, 2
        began = time.monotonic()
        await versions._look(0.1)
        took = time.monotonic() - began
        assert versions.current.workers["others"].pid == serving
        body = json.dumps({"inputs": [request([1, 2])]}).encode()
        reply = await versions.current.workers["others"].ask("/invocations", body, [0], time.monotonic() + 60)
        mine = workers_of(os.getpid())
        await versions.close()
        return versions.refused, reply.status, took, mine == {serving}

    said, status, took, alone = asyncio.run(refused())
    assert said == {"version": "shop/2", "reason": "it was not loaded within 3 s"}
    assert status == 200 and took > 3 and alone


def test_a_worker_that_hangs_while_it_is_started_again_is_tried_again(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []

    async def asked() -> Any:
        worker = Worker(tiny.bundle, OTHERS, lambda *_: None, reasons.append)
        await worker.start()
        dead = worker.pid
        assert dead
        monkeypatch.setattr(workers, "LOADS_S", 2)
        os.kill(dead, signal.SIGKILL)
        while worker.pid in (None, dead):
            await asyncio.sleep(0.01)
        stopped = worker.pid
        assert stopped and worker.state == "starting"
        os.kill(stopped, signal.SIGSTOP)
        while worker.pid == stopped:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(workers, "LOADS_S", 1800)
        body = json.dumps({"inputs": [request([1, 2])]}).encode()
        reply = await worker.ask("/invocations", body, [0], time.monotonic() + 120)
        await worker.close()
        return reply.status

    assert asyncio.run(asked()) == 200
    assert reasons == ["died"]
