"""Runs through DVC's queue: what is there is not run again. Killed and started again, it goes on.

The queue's worker outlives the process that starts it.
"""

import re
import subprocess
import tempfile
import time
from pathlib import Path

from llmsrec.errors import DataError
from llmsrec.experiments.runs import Run
from llmsrec.registry import revisions

LOOK_S, START_S = 10, 20  # between two looks; what a worker needs to start, at most
IDLE = re.compile(r"Worker status: 0 active, 0 idle")


def missing(wanted: list[Run]) -> list[Run]:
    """Those that were not run on the commit that is checked out."""
    present = revisions.experiments_here(Path())
    return [run for run in wanted if run.name not in present]


def complete(wanted: list[Run], jobs: int) -> None:
    """Return when every run is there; queue what is not, each once.

    Raises:
        DataError: a run failed.
    """
    tried: set[str] = set()
    last: list[Run] = []
    while True:
        status = dvc("queue", "status")  # first: what a worker made that is gone now is there
        left = missing(wanted)
        if left != last:
            print(f"{len(wanted) - len(left)} of {len(wanted)} runs are there", flush=True)
        last = left
        if not left:
            return
        if IDLE.search(status):  # so what it calls running was killed
            queued = {run.name for run in left if re.search(rf"\s{run.name}\s.*Queued", status)}
            failed = [run.name for run in left if run.name in tried - queued]
            if failed:
                raise DataError(f"{failed[0]} failed; `dvc queue logs {failed[0]}` says why. Then run this again.")
            for run in left:
                if run.name not in queued:
                    dvc("exp", "run", "--queue", "--name", run.name, *run.overrides(), *run.targets())
                tried.add(run.name)
            dvc("queue", "start", "--jobs", str(jobs))
            begun = time.monotonic()
            while IDLE.search(dvc("queue", "status")) and time.monotonic() - begun < START_S:
                time.sleep(1)
        time.sleep(LOOK_S)


def dvc(*arguments: str) -> str:
    """What a DVC command prints.

    Raises:
        DataError: it failed.
    """
    # Files, not pipes: the worker that `queue start` leaves behind would hold a pipe open until the queue is empty.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(["dvc", *arguments], stdout=out, stderr=err, text=True, check=False)
        out.seek(0)
        if done.returncode:
            err.seek(0)
            reason = (err.read().strip().splitlines() or ["it says nothing"])[-1]
            raise DataError(f"`dvc {' '.join(arguments)}` failed: {reason}")
        return out.read()
