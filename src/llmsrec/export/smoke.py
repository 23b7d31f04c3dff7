"""A bundle on its own: loaded and asked in a fresh process that has nothing but the bundle's code."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from llmsrec.export import probe
from llmsrec.promotion.facts import Smoke

LONGEST_S = 1800


def smoke(bundle: Path, requests: int, say: Callable[[str], None] = lambda line: None) -> Smoke:
    """Load a bundle and time its towers. It has been verified: its code is run, and no file is compared here.

    Args:
        requests: how many to time, of each tower.
        say: gets a line whenever a step is done.

    Returns:
        What was measured, or the first problem.
    """
    command = [sys.executable, "-I", "-B", probe.__file__, str(bundle.resolve()), str(requests)]
    last_line = ""
    with tempfile.TemporaryDirectory() as elsewhere, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, cwd=elsewhere, stdout=subprocess.PIPE, stderr=errors, text=True)
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(LONGEST_S, end)
        timer.start()
        try:
            with process:
                assert process.stdout
                for line in process.stdout:
                    step, mark, _ = line.strip().rpartition(probe.DONE)
                    if mark:
                        say(step)
                    last_line = line
        finally:
            timer.cancel()
            process.kill()  # where this process was interrupted; one that has ended is left alone
        if late.is_set():
            return Smoke(f"{requests} requests of each tower took more than {LONGEST_S} s")
        if process.returncode:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            return Smoke((lines or [f"exit status {process.returncode}"])[-1][:500])
    measured = json.loads(last_line)
    return Smoke(None, requests, measured["load_s"], measured["latency_ms"], measured["peak_mb"])
