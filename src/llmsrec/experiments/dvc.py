"""DVC's commands."""

import shutil
import subprocess
import tempfile

from llmsrec.errors import DataError


def dvc(*arguments: str) -> str:
    """What a DVC command prints.

    Raises:
        DataError: it failed, or is not to be had.
    """
    if not shutil.which("dvc"):
        raise DataError(
            "the command `dvc` is not on PATH; activate the environment first: `source .venv/bin/activate`."
        )
    # Files, not pipes: the worker that `queue start` leaves behind would hold a pipe open until the queue is empty.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(["dvc", *arguments], stdout=out, stderr=err, text=True, check=False)
        out.seek(0)
        if done.returncode:
            err.seek(0)
            reason = (err.read().strip().splitlines() or ["it says nothing"])[-1]
            raise DataError(f"`dvc {' '.join(arguments)}` failed: {reason}")
        return out.read()
