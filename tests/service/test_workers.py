"""A worker's process, as the service ends it."""

import asyncio
import os
import signal
import time
from pathlib import Path

from llmsrec.service.workers import Settings, Worker


def test_a_process_that_has_just_died_is_no_error_to_who_ends_it(tmp_path: Path) -> None:
    """The service hears that a worker hung up and that its process is gone in either order; raised there, the error
    ended the task that starts the worker again, and nobody answered any more.
    """

    async def end() -> int | None:
        worker = Worker(tmp_path, Settings(llm=False, rows=1, cost=1, wait_s=0.0, waiting=1), lambda *_: None)
        worker._process = process = await asyncio.create_subprocess_exec("sleep", "60")
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.1)  # it is dead, and this loop has not been told
        await asyncio.create_task(worker._end(0))
        return process.returncode

    assert asyncio.run(end()) == -signal.SIGKILL
