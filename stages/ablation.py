"""`make ablation`: the paper's Table 7 through DVC's queue -> reports/ablation.md.

What is there is not run again: killed and started again, it goes on. The queue's worker outlives this process.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmsrec.errors import DataError, LLMSRecError
from llmsrec.evaluation import tables
from llmsrec.experiments import ablation
from llmsrec.files import atomic
from llmsrec.registry import revisions

REPORT = Path("reports/ablation.md")
LOOK_S, START_S = 10, 20  # between two looks; what a worker needs to start, at most
IDLE = re.compile(r"Worker status: 0 active, 0 idle")


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(prog="python -m stages.ablation", description=__doc__.split("\n")[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0], help="values of train.seed")
    options.add_argument("--rows", nargs="+", choices=list(ablation.LOSSES), default=list(ablation.LOSSES))
    options.add_argument("--orders", nargs="+", choices=list(ablation.ORDERS), default=list(ablation.ORDERS))
    options.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    chosen = options.parse_args(arguments)
    wanted = ablation.experiments(chosen.rows, chosen.orders, chosen.seeds)
    run(wanted, chosen.jobs)
    found = ablation.tables(Path(), wanted)
    with atomic(REPORT) as temporary:
        temporary.write_text(f"# Table 7\n\n{tables.markdown(found)}", encoding="utf-8")
    print(f"\n{tables.text(found)}\n\n-> {REPORT}")


def run(wanted: list[ablation.Experiment], jobs: int) -> None:
    """Return when every experiment is there; queue what is not, each once.

    Raises:
        DataError: an experiment failed.
    """
    tried: set[str] = set()
    missing: list[ablation.Experiment] = []
    while True:
        status = dvc("queue", "status")  # first: what a worker made that is gone now is there
        there = revisions.experiments_here(Path())
        left = [one for one in wanted if one.name not in there]
        if left != missing:
            print(f"{len(wanted) - len(left)} of {len(wanted)} experiments are there", flush=True)
        missing = left
        if not missing:
            return
        if IDLE.search(status):  # so what it calls running was killed
            queued = {one.name for one in missing if re.search(rf"\s{one.name}\s.*Queued", status)}
            failed = [one.name for one in missing if one.name in tried - queued]
            if failed:
                raise DataError(f"{failed[0]} failed; `dvc queue logs {failed[0]}` says why. Then run this again.")
            for one in missing:
                if one.name not in queued:
                    dvc("exp", "run", "--queue", "--name", one.name, *one.overrides())
                tried.add(one.name)
            dvc("queue", "start", "--jobs", str(jobs))
            begun = time.monotonic()
            while IDLE.search(dvc("queue", "status")) and time.monotonic() - begun < START_S:
                time.sleep(1)
        time.sleep(LOOK_S)


def dvc(*arguments: str) -> str:
    # Files, not pipes: the worker that `queue start` leaves behind would hold a pipe open until the queue is empty.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(["dvc", *arguments], stdout=out, stderr=err, text=True, check=False)
        out.seek(0)
        if done.returncode:
            err.seek(0)
            reason = (err.read().strip().splitlines() or ["it says nothing"])[-1]
            raise DataError(f"`dvc {' '.join(arguments)}` failed: {reason}")
        return out.read()


if __name__ == "__main__":
    try:
        main()
    except LLMSRecError as error:
        sys.exit(f"ablation: {error}")
