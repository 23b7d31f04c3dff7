"""Which version answers: the first one, and then whichever the alias moves to, once it has shown that it can serve.

A new version is loaded beside the old one, which answers meanwhile, and takes its place between two calls. The old one
answers what it has accepted, and is ended. Whatever goes wrong, the version that answers goes on answering.
"""

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from llmsrec.errors import DataError, LLMSRecError
from llmsrec.service import memory
from llmsrec.service.loaded import Loaded
from llmsrec.service.metrics import Metrics
from llmsrec.service.workers import Settings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 600.0  # before a version that was refused is tried again; doubled each time
LEAST = 1.5  # times its size on disk: what a version needs in memory where no other shows it

log = logging.getLogger(__name__)


class _Superseded(Exception):
    """The alias names another version than the one that is being loaded."""


class Registry(Protocol):
    """Where versions come from: `llmsrec.registry.follow.Registry`. Both calls may take long and raise LLMSRecError."""

    def version(self) -> Any: ...

    def fetch(self, version: Any, into: Path) -> Path: ...


class Swap:
    """The version that answers, and what is known of the next.

    Attributes:
        current: the version that answers; None until the first one does.
        refused: version and reason, where the alias names one that may not serve.
        registry: why the registry cannot be asked, if it cannot.
    """

    def __init__(self, registry: Registry, settings: list[Settings], metrics: Metrics, drain_s: float) -> None:
        self._source, self._settings, self._metrics, self._drain_s = registry, settings, metrics, drain_s
        self._pause, self._again_at = FIRST_PAUSE_S, 0.0
        self._ends: set[asyncio.Task[None]] = set()
        self.current: Loaded | None = None
        self.refused: dict[str, str] | None = None
        self.registry: str | None = None

    async def first(self) -> None:
        """Load what the URI stands for now.

        Raises:
            LLMSRecError: there is no such version, or it may not serve.
        """
        version = await asyncio.to_thread(self._source.version)
        self._metrics.registry_up.set(1)
        await self._take(version)

    async def follow(self, every_s: float) -> None:
        """Ask the registry again and again; never ends by itself."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._look(every_s)
            except Exception:
                log.exception("asking the registry failed")

    async def close(self) -> None:
        """End the version that answers, and those that are still being ended."""
        if self.current:
            await self.current.close()
        if self._ends:
            await asyncio.wait(self._ends)

    async def _named(self) -> Any:
        """The version that the URI stands for now; None where the registry does not say."""
        try:
            version = await asyncio.to_thread(self._source.version)
        except LLMSRecError as error:
            if self.registry is None:
                log.warning("the registry does not answer; nothing is changed", extra={"reason": str(error)})
            self.registry = str(error)
            self._metrics.registry_up.set(0)
            return None
        self.registry = None
        self._metrics.registry_up.set(1)
        return version

    async def _look(self, every_s: float) -> None:
        version = await self._named()
        if version is None:
            return
        if self.refused and self.refused["version"] != str(version):
            self._forget()
        if self.current and str(version) == str(self.current.version):
            return
        if self.refused and time.monotonic() < self._again_at:
            return
        try:
            await self._take(version, every_s)
        except _Superseded as other:
            log.warning("a version is given up while it is loaded", extra={"version": str(version), "for": str(other)})
        except LLMSRecError as error:
            self._refuse(str(version), str(error))

    async def _take(self, version: Any, every_s: float | None = None) -> None:
        """Load a version and let it answer; meanwhile, the registry is asked every so many seconds, if at all."""
        began = time.monotonic()
        place = TemporaryDirectory(prefix="llmsrec-", ignore_cleanup_errors=True)
        try:
            bundle = await asyncio.to_thread(self._source.fetch, version, Path(place.name))
            self._check_memory(bundle)
            loading = asyncio.create_task(Loaded.load(version, bundle, place, self._settings, self._metrics))
            loaded = await self._while_named(version, loading, every_s)
        except BaseException:
            place.cleanup()
            raise
        old, self.current = self.current, loaded
        self._forget()
        self._metrics.swaps.labels("taken").inc()
        self._metrics.model.clear()
        runtime = loaded.about["runtime"] or ""
        self._metrics.model.labels(version.name, version.number, version.alias or "", version.digest, runtime).set(1)
        about = {"version": str(version), "before": old and str(old.version)}
        log.info("a version answers", extra=about | {"seconds": round(time.monotonic() - began, 2)})
        if old:
            end = asyncio.create_task(self._end(old))
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)

    async def _while_named(self, version: Any, loading: "asyncio.Task[Loaded]", every_s: float | None) -> Loaded:
        """What is loaded, unless the alias moves on: a version that hangs would keep all others out until it is late.

        Raises:
            LLMSRecError: see `Loaded.load`.
            _Superseded: see there.
        """
        try:
            while not (await asyncio.wait({loading}, timeout=every_s))[0]:
                named = await self._named()
                if named is not None and str(named) != str(version) and not loading.done():
                    raise _Superseded(named)
        except BaseException:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            raise
        return loading.result()

    async def _end(self, old: Loaded) -> None:
        await old.drained(self._drain_s)
        await old.close()

    def _check_memory(self, bundle: Path) -> None:
        """Raise DataError unless a version can be loaded beside the one that answers."""
        free = memory.available()
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        now = memory.held(worker.pid for worker in self.current.workers.values()) if self.current else 0
        needed = max(now, int(LEAST * size))
        if free is not None and needed > free:
            raise DataError(
                f"it needs about {needed / 2**20:,.0f} MB of memory beside the version that answers, and "
                f"{free / 2**20:,.0f} MB are free; give the service more, or start it anew"
            )

    def _refuse(self, version: str, reason: str) -> None:
        log.error("a version may not serve; nothing is changed", extra={"version": version, "reason": reason})
        self.refused = {"version": version, "reason": reason}
        self._again_at = time.monotonic() + self._pause
        self._pause = min(LONGEST_PAUSE_S, 2 * self._pause)
        self._metrics.swaps.labels("refused").inc()
        self._metrics.refused.clear()
        self._metrics.refused.labels(version).set(1)

    def _forget(self) -> None:
        self.refused, self._pause = None, FIRST_PAUSE_S
        self._metrics.refused.clear()


@contextlib.asynccontextmanager
async def following(swap: Swap, every_s: float) -> Any:
    """Follow the alias while a block runs, and end all versions after it."""
    task = asyncio.create_task(swap.follow(every_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await swap.close()
