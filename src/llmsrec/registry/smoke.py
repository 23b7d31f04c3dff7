"""A bundle on its own: verified, then loaded and asked in a fresh process that has nothing but the bundle's code."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from llmsrec.errors import DataError
from llmsrec.registry import probe
from llmsrec.registry.gate import Smoke
from llmsrec.registry.verified import same_code
from llmsrec.serving.bundle import verify

LONGEST_S = 1800


def smoke(model: Path, digest: str, requests: int) -> Smoke:
    """Try the bundle of a version as MLflow stored it.

    Args:
        model: the version's folder: `artifacts/bundle`, and `code` and `pyfunc.py`, which MLflow runs to serve it.
        digest: the `bundle_sha256` that the version is tagged with.
        requests: how many to time, of each tower.

    Returns:
        What was measured, or the first problem.
    """
    bundle = model / "artifacts/bundle"
    try:
        found = verify(bundle)
        if found != digest:
            return Smoke(f"the bundle is {found[:12]}, not {digest[:12]} that was registered")
        same_code(model)
    except DataError as error:
        return Smoke(str(error).replace(f"{bundle}: ", "").replace(f"{bundle} ", "the bundle "))
    with tempfile.TemporaryDirectory() as elsewhere:
        command = [sys.executable, "-I", "-B", probe.__file__, str(bundle.resolve()), str(requests)]
        try:
            done = subprocess.run(
                command, cwd=elsewhere, capture_output=True, text=True, check=False, timeout=LONGEST_S
            )
        except subprocess.TimeoutExpired:
            return Smoke(f"{requests} requests of each tower took more than {LONGEST_S} s")
    if done.returncode:
        return Smoke((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:500])
    measured = json.loads(done.stdout.splitlines()[-1])
    return Smoke(None, requests, measured["load_s"], measured["latency_ms"], measured["peak_mb"])
