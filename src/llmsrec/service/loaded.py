"""A version that is loaded: a worker for the `llm` tower and one for all others, so that these never wait for it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmsrec.files import read_json
from llmsrec.service.decode import INVOCATIONS, SIMILAR, Call
from llmsrec.service.metrics import Metrics
from llmsrec.service.worker.wire import OF_LLM
from llmsrec.service.workers import Reply, Settings, Worker
from llmsrec.serving.runtime import runtime


@dataclass(frozen=True)
class Answered:
    """A call's answer.

    Attributes:
        status: 200, or what the first worker that could not answer said.
        body: `{"predictions": [...]}`, or the one answer where a request stands by itself, or one sentence.
        queued_s: the longest that one of its parts waited.
        popular: requests that got the popular items.
        unknown: items of their histories that the catalogue does not have.
    """

    status: int
    body: bytes
    queued_s: float = 0.0
    popular: int = 0
    unknown: int = 0


@dataclass
class Loaded:
    """A version that answers.

    Attributes:
        about: what the workers say of it: `towers`, `own` (the tower of requests that name none), `schemas` of requests
            and answers, `items`, `runtime` of the language model (`onnx`, `torch`, None without one).
        calls: how many are being answered.
    """

    version: Any  # registry.follow.Version; only its text, name, number, alias and digest are read
    place: TemporaryDirectory[str]
    workers: dict[str, Worker]
    about: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def load(
        cls, version: Any, bundle: Path, place: "TemporaryDirectory[str]", settings: list[Settings], metrics: Metrics
    ) -> "Loaded":
        """Start the workers that the version has towers for, and wait until all of them have passed their self-tests.

        Raises:
            DataError: one could not be loaded, or did not pass; the others are ended, too.
        """
        workers = {}
        has_llm = "llm" in read_json(bundle / "config.json").get("towers", ["llm"])
        for of_worker in settings:
            if of_worker.llm and not (has_llm and runtime(bundle)):
                continue
            name = "llm" if of_worker.llm else "others"
            workers[name] = Worker(bundle, of_worker, metrics.of_batches(name), metrics.of_restarts(name))
        loaded = cls(version, place, workers)
        try:
            abouts = await asyncio.gather(*(worker.start() for worker in workers.values()))
        except BaseException:
            await loaded.close()
            raise
        loaded.about = abouts[0] | {"towers": [tower for about in abouts for tower in about["towers"]]}
        loaded.about["runtime"] = abouts[-1]["runtime"] if "llm" in workers else None
        return loaded

    def towers(self, said: Iterable[Any], path: str) -> list[Any]:
        """The towers that answer requests.

        Args:
            said: what these say of it, see `Call.towers`.
            path: where they were sent to.
        """
        own = self.about["own"]
        if path == SIMILAR and own != "llm":
            return [own if tower == "cf" else tower for tower in said]
        return [own if tower is None else tower for tower in said]

    @property
    def ready(self) -> bool:
        """Whether every worker can answer at once, as far as is known."""
        return all(worker.state == "ready" for worker in self.workers.values())

    def workers_of(self, towers: Iterable[str]) -> list[Worker]:
        """The workers that answer for some towers."""
        return [self.workers[name] for name in {self._worker(tower) for tower in towers}]

    async def answer(self, call: Call, by: float) -> Answered:
        """Answer a call, each request by the worker of its tower.

        Raises:
            Overloaded, TimeoutError: see `Worker.ask`.
        """
        self.calls += 1
        try:
            parts = self._parts(call)
            asked = [self.workers[name].ask(call.path, call.body, rows, by) for name, rows in parts.items()]
            replies = await asyncio.gather(*asked) if len(asked) > 1 else [await asked[0]]
        finally:
            self.calls -= 1
            if not self.calls:
                self.idle.set()
        return _joined(call, list(parts.values()), replies)

    def _parts(self, call: Call) -> dict[str, list[int]]:
        """Worker -> the requests that it answers; a call that nobody can answer is the `others`', who say why."""
        parts: dict[str, list[int]] = {}
        for row, tower in enumerate(self.towers(call.towers, call.path)):
            parts.setdefault(self._worker(tower), []).append(row)
        return parts or {"others": []}

    def _worker(self, tower: Any) -> str:
        return "llm" if tower in OF_LLM and "llm" in self.workers else "others"

    async def drained(self, seconds: float) -> None:
        """Wait until no call is being answered, at most so long."""
        while self.calls:
            self.idle.clear()
            try:
                await asyncio.wait_for(self.idle.wait(), seconds)
            except TimeoutError:
                return

    async def close(self) -> None:
        """End the workers and remove the files."""
        await asyncio.gather(*(worker.close() for worker in self.workers.values()))
        self.place.cleanup()


def _joined(call: Call, parts: list[list[int]], replies: list[Reply]) -> Answered:
    for reply in replies:
        if reply.status != 200:
            return Answered(reply.status, reply.message.encode())
    answers: list[bytes] = [b""] * len(call.towers)
    for rows, reply in zip(parts, replies, strict=True):
        for row, answer in zip(rows, reply.answers, strict=True):
            answers[row] = answer
    body = (
        b'{"predictions": [' + b", ".join(answers) + b"]}"
        if call.path == INVOCATIONS and not call.alone
        else answers[0]
    )
    return Answered(
        200,
        body,
        max(reply.queued_s for reply in replies),
        sum(reply.popular for reply in replies),
        sum(reply.unknown for reply in replies),
    )
