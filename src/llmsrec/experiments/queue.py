"""Runs through DVC's queue: what is there is not run again. Killed and started again, it goes on.

The queue's worker outlives the process that starts it.
"""

import re
import time

from llmsrec.errors import DataError
from llmsrec.experiments.dvc import dvc
from llmsrec.experiments.runs import Run
from llmsrec.experiments.workspace import Workspace
from llmsrec.registry import revisions

# Seconds between two looks at git's refs, which cost nothing, and between two questions to DVC, each of which takes
# some seconds of a core that the run at work could have; and what a worker needs to start, at most.
LOOK_S, ASK_S, START_S = 2, 60, 20
IDLE, RUNNING = re.compile(r"Worker status: 0 active, \d+ idle"), re.compile(r"\sRunning\s")
ASKED = 10  # times at most, where DVC counts no worker and a run is at work


def missing(wanted: list[Run], workspace: Workspace) -> list[Run]:
    """Those that were run neither on the commit that is checked out nor in the workspace."""
    present = revisions.experiments_at_head(workspace.root)
    return [run for run in wanted if run.name not in present and not workspace.has(run)]


def complete(wanted: list[Run], workspace: Workspace, jobs: int) -> None:
    """Return when every run is there; queue what is not, each once.

    Raises:
        DataError: a run failed.
    """
    tried: set[str] = set()
    last: list[Run] = []
    while True:
        status = _status()  # first: what a worker made that is gone now is there
        left = missing(wanted, workspace)
        if left != last:
            print(f"{len(wanted) - len(left)} of {len(wanted)} runs are there", flush=True)
        last = left
        if not left:
            return
        if IDLE.search(status):  # so what it calls running was killed; a worker that has nothing to do may stay
            queued = {run.name for run in left if re.search(rf"\s{run.name}\s.*Queued", status)}
            failed = [run.name for run in left if run.name in tried - queued]
            if failed:
                raise DataError(f"{failed[0]} failed; `dvc queue logs {failed[0]}` says why. Then run this again.")
            for run in left:
                if run.name not in queued:
                    dvc("exp", "run", "--queue", "--name", run.name, *run.overrides(workspace.values), *run.targets())
                tried.add(run.name)
            dvc("queue", "start", "--jobs", str(jobs))
            begun = time.monotonic()
            while IDLE.search(dvc("queue", "status")) and time.monotonic() - begun < START_S:
                time.sleep(1)
        asked = time.monotonic()
        while missing(wanted, workspace) == left and time.monotonic() - asked < ASK_S:
            time.sleep(LOOK_S)


def _status() -> str:
    """What DVC says of its queue; a worker on a busy machine answers it too late, and then is not counted."""
    for _ in range(ASKED):
        status = dvc("queue", "status")
        if not (IDLE.search(status) and RUNNING.search(status)):
            break
        time.sleep(LOOK_S)
    return status
