"""A worker as the service sees it: a process that is started, asked, started again if it dies or hangs, and ended."""

import asyncio
import contextlib
import json
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmsrec.errors import DataError
from llmsrec.service.metrics import OfBatch
from llmsrec.service.silence import TICK_S, Silence
from llmsrec.service.worker.wire import Frames, frame

MAIN = Path(__file__).parent / "worker/main.py"
LOADS_S = 1800  # a version that has not loaded and passed its test by then is broken
HANGS_S, DEADLINES, TESTS = 20.0, 3, 20  # see `Worker.patience_s`
ENDS_S = 10  # for a batch that runs while its process is to end
TRIES = 2  # a request that its worker died of is not tried for ever
SECRETS = ("LLMSREC_TOKEN", "LLMSREC_LOG_KEY")  # of the service, which no worker needs
PACE = 0.1  # weight of a new measurement in the mean time that a request takes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Of one worker: see `worker/main.py`; `waiting` requests may wait for it, each `deadline_s` at most."""

    llm: bool
    rows: int
    cost: int
    wait_s: float
    waiting: int
    deadline_s: float
    kept: int = 0
    torch: bool = False


class Overloaded(Exception):
    """More waits than may wait, or than can be answered in time.

    Attributes:
        after_s: when it is worth trying again.
    """

    def __init__(self, after_s: int) -> None:
        super().__init__(after_s)
        self.after_s = after_s


@dataclass
class Reply:
    """What a worker says to a call: a status, and either the answers as JSON or one sentence."""

    status: int
    message: str = ""
    answers: list[bytes] = field(default_factory=list)
    queued_s: float = 0.0
    popular: int = 0
    unknown: int = 0


@dataclass(eq=False)
class _Asked:
    path: str
    rows: list[int]
    body: bytes
    by: float
    reply: "asyncio.Future[Reply]"
    tries: int = 1


class Worker:
    """One process with one bundle.

    Args:
        folder: the bundle.
        batch: told of each batch: requests, cost, seconds, and what was kept of prompts, if anything is.
        restarted: told why, each time that the process is started again: `died` or `hung`.

    Attributes:
        waiting: requests that are not answered.
        coming: calls that have been let in, and are not asked yet.
        ready: the process is loaded and takes what it is asked.
        patience_s: how long it may say nothing while it has work, before it is taken for one that hangs: several
            deadlines, and several times what the largest batch takes, which is some times its self-test.
    """

    def __init__(
        self, folder: Path, settings: Settings, batch: OfBatch, restarted: Callable[[str], object] = lambda _: None
    ) -> None:
        self._folder, self._settings, self._batch, self._restarted = folder, settings, batch, restarted
        self._asked: dict[int, _Asked] = {}
        self._numbers = 0
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.Transport | None = None
        self._about: asyncio.Future[dict[str, Any]] | None = None
        self._closing = False
        self._restart: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._silence: Silence | None = None  # while it has something to do and says nothing
        self._hung_s: float | None = None  # what its silence was when it was taken for one that hangs
        self._seconds: float | None = None  # that a request takes, in the mean
        self.waiting = self.coming = 0
        self.ready = False
        self.patience_s = max(HANGS_S, DEADLINES * settings.deadline_s)

    @property
    def state(self) -> str:
        """`ready`; `starting`, until it is; `silent`, where it has answered nobody for as long as a call may take."""
        if not self.ready:
            return "starting"
        return "silent" if self._silence and self._silence.seconds > self._settings.deadline_s else "ready"

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> dict[str, Any]:
        """Load, test, and be ready; what the worker says of its version (see `worker/main.py`).

        Raises:
            DataError: the version cannot be loaded, or failed its self-test.
        """
        ours, theirs = socket.socketpair()
        settings = json.dumps(asdict(self._settings))
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-B", str(MAIN), str(self._folder), str(theirs.fileno()), settings,
                pass_fds=[theirs.fileno()], env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr,
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        self._about = loop.create_future()
        self._transport, _ = await loop.create_connection(lambda: _Channel(self), sock=ours)
        self._watching = asyncio.create_task(self._watch(self._process.pid))
        try:
            about = await self._about
            if self._transport.is_closing():
                raise DataError("its process ended as soon as it was loaded")
        except BaseException:
            await self._end(0)
            raise
        self.ready = True
        self.patience_s = max(self.patience_s, TESTS * about["tested_s"])
        return about

    async def ask(self, path: str, body: bytes, rows: list[int], by: float) -> Reply:
        """Answer some requests of a call.

        Args:
            path: where the call was sent to.
            body: the call as it was sent.
            rows: the numbers of the requests.
            by: deadline in s of the monotonic clock.

        Raises:
            Overloaded: see there.
            TimeoutError: the deadline passed.
        """
        if after_s := self.full(len(rows), by):
            raise Overloaded(after_s)
        self._numbers += 1
        asked = _Asked(path, rows, body, by, asyncio.get_running_loop().create_future())
        self._asked[self._numbers] = asked
        self.waiting += len(rows)
        if self.ready:
            self._send(self._numbers, asked)
        async with asyncio.timeout_at(by):
            return await asked.reply

    async def close(self) -> None:
        """Once nothing is asked any more: hang up, and see the process end."""
        self._closing = True
        if self._restart:
            self._restart.cancel()
        await self._end(ENDS_S)

    def full(self, rows: int, by: float) -> int | None:
        """After how many seconds to try again, where so many requests more may not wait; None where they may.

        They may not if more waits than may wait, or than can be answered by their deadline. A call as large as all that
        may wait is let in where nothing waits.
        """
        waiting = self.waiting + self.coming
        takes = waiting * (self._seconds or 0.0)
        if waiting and (waiting + rows > self._settings.waiting or time.monotonic() + takes > by):
            return max(1, math.ceil(takes))
        return None

    def _send(self, number: int, asked: _Asked) -> None:
        assert self._transport
        self._transport.write(frame({"id": number, "path": asked.path, "rows": asked.rows, "by": asked.by}, asked.body))

    def heard(self, header: dict[str, Any], body: bytes) -> None:
        """A frame of the worker's."""
        self._silence = None
        if "batch" in header:
            took = header["seconds"] / header["batch"]
            self._seconds = took if self._seconds is None else self._seconds + PACE * (took - self._seconds)
            self._batch(header["batch"], header["cost"], header["seconds"], header["kept"])
        elif "ready" in header or "failed" in header:
            if self._about and not self._about.done():
                if "failed" in header:
                    self._about.set_exception(DataError(header["failed"]))
                else:
                    self._about.set_result(header["ready"])
        elif asked := self._asked.pop(header["id"], None):
            self.waiting -= len(asked.rows)
            if not asked.reply.done():
                asked.reply.set_result(_reply(header, body))

    def lost(self) -> None:
        """The worker hung up: it failed to load, was ended, died, or hung and was hung up on."""
        was_ready, self.ready = self.ready, False
        if self._about and not self._about.done():
            self._about.set_exception(DataError("its process ended while it was loaded"))
        elif was_ready and not self._closing:
            self._restart = asyncio.create_task(self._again())

    async def _watch(self, pid: int) -> None:
        """Give up a process that has said nothing for too long while it loads or has work."""
        self._silence = None
        while True:
            await asyncio.sleep(TICK_S)
            if self.ready and not self._asked:
                self._silence = None
            elif self._silence is None:
                self._silence = Silence(pid)
            else:
                self._silence.tick()
                if self._silence.seconds > (self.patience_s if self.ready else LOADS_S):
                    break
        if self._about and not self._about.done():
            self._about.set_exception(DataError(f"it was not loaded within {LOADS_S} s"))
        elif self._transport:
            self._hung_s = self._silence.seconds
            self._transport.abort()  # and so it is lost

    async def _again(self) -> None:
        """Start a new process after one that died or hung, and ask it what the old one has not answered."""
        began, pause = time.monotonic(), 0.0
        tower = "llm" if self._settings.llm else "others"
        about: dict[str, Any] = {"tower": tower, "reason": "died"}
        if self._hung_s is not None:
            about |= {"reason": "hung", "silent_s": round(self._hung_s, 1)}
            self._hung_s = None
        log.error("a worker is started again", extra=about)
        self._restarted(about["reason"])
        while not self._closing:
            await self._end(0)
            await asyncio.sleep(pause)
            try:
                await self.start()
                break
            except (DataError, OSError) as error:  # for a process, too, there may be no memory now
                log.error("a worker could not be started again", extra={"tower": tower, "reason": str(error)})
                pause = min(60.0, 2 * pause + 1)
        log.info("a worker answers again", extra={"tower": tower, "seconds": round(time.monotonic() - began, 2)})
        for number, asked in list(self._asked.items()):
            if asked.tries < TRIES and asked.by > time.monotonic():
                asked.tries += 1
                self._send(number, asked)
            else:
                header = {"id": number, "status": 500, "message": "the request failed: its worker died, twice"}
                self.heard(header, b"")

    async def _end(self, patience_s: float) -> None:
        if self._watching:
            self._watching.cancel()
        if self._transport:
            self._transport.close()
        if self._process and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), patience_s)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    self._process.kill()
                await self._process.wait()


def full(workers: Iterable[Worker], by: float) -> int | None:
    """After how many seconds to try again, where a call that some workers answer is sure not to be let in."""
    return max((seconds for worker in workers if (seconds := worker.full(1, by))), default=None)


class _Channel(asyncio.Protocol):
    """The service's end of the socket."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._frames = worker, Frames()

    def data_received(self, data: bytes) -> None:
        for header, body in self._frames.feed(data):
            self._worker.heard(header, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.lost()


def _reply(header: dict[str, Any], body: bytes) -> Reply:
    if header["status"] != 200:
        return Reply(header["status"], message=header["message"])
    answers, start = [], 0
    for size in header["sizes"]:
        answers.append(body[start : start + size])
        start += size
    return Reply(200, "", answers, header["queued"], header["popular"], header["unknown"])
