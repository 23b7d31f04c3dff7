"""A worker's process, as the service ends it."""

import asyncio
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llmsrec.service.worker.wire import Frames, frame
from llmsrec.service.workers import MAIN, Settings, Worker
from tests.service.conftest import request


def test_a_process_that_has_just_died_is_no_error_to_who_ends_it(tmp_path: Path) -> None:
    """The service hears that a worker hung up and that its process is gone in either order; raised there, the error
    ended the task that starts the worker again, and nobody answered any more.
    """

    async def end() -> int | None:
        worker = Worker(
            tmp_path, Settings(llm=False, rows=1, cost=1, wait_s=0.0, waiting=1, deadline_s=10.0), lambda *_: None
        )
        worker._process = process = await asyncio.create_subprocess_exec("sleep", "60")
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.1)  # it is dead, and this loop has not been told
        await asyncio.create_task(worker._end(0))
        return process.returncode

    assert asyncio.run(end()) == -signal.SIGKILL


def test_a_worker_that_cannot_be_started_for_want_of_files_is_once_there_are_some(tiny: Any) -> None:
    """It dies while the service has no descriptor left for another one, and answers later what it was asked before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def asked() -> Any:
        settings = Settings(llm=False, rows=4, cost=4, wait_s=0.0, waiting=4, deadline_s=10.0)
        worker = Worker(tiny.bundle, settings, lambda *_: None)
        await worker.start()
        assert worker.pid
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, hard))
        try:
            os.kill(worker.pid, signal.SIGKILL)
            while worker.ready:
                await asyncio.sleep(0.01)
            body = json.dumps({"inputs": [request([1, 2])]}).encode()
            reply = asyncio.create_task(worker.ask("/invocations", body, [0], time.monotonic() + 120))
            await asyncio.sleep(0.5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        answered = await reply
        await worker.close()
        return answered

    assert asyncio.run(asked()).status == 200


def test_a_worker_that_is_started_while_a_thousand_connections_are_open_answers(tiny: Any) -> None:
    """Its socket's number is that of the service's next free descriptor, and `select` takes none beyond 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip(f"a process may open {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = fcntl.fcntl(theirs, fcntl.F_DUPFD, 1500)
        settings = json.dumps(asdict(Settings(llm=False, rows=4, cost=4, wait_s=0.0, waiting=4, deadline_s=10.0)))
        command = [sys.executable, "-B", str(MAIN), str(tiny.bundle), str(number), settings]
        process = subprocess.Popen(command, pass_fds=[number])
        os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        theirs.close()
        frames, came = Frames(), list[Any]()

        def until(name: str) -> Any:
            while not any(name in header for header, _ in came):
                data = ours.recv(2**16)
                assert data, "the worker hung up"
                came.extend(frames.feed(data))
            return next(header for header, _ in came if name in header)

        assert until("ready")["ready"]["towers"]
        body = json.dumps({"inputs": [request([1, 2])]}).encode()
        call = {"id": 1, "path": "/invocations", "rows": [0], "by": time.monotonic() + 600}
        ours.sendall(frame(call, body))
        assert until("id")["status"] == 200
        ours.close()
        assert process.wait(timeout=60) == 0
