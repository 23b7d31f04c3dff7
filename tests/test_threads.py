"""How long torch's threads spin before they sleep, as OpenMP's library itself says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPIN = re.compile(r"GOMP_SPINCOUNT = '(\d+)'")


def spin_counts(code: str, **environment: str) -> list[str]:
    """Rounds that libgomp spins, once for each copy of it that the code brings."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env=inherited | {"OMP_DISPLAY_ENV": "verbose"} | environment,
    )  # fmt: skip
    return SPIN.findall(done.stderr)


@pytest.mark.parametrize("code", ["import stages.rank", "import llmsrec.models.cf.sasrec"])
def test_they_sleep_early_unless_the_user_says_otherwise(code: str) -> None:
    actual = spin_counts(code)
    if not actual:
        pytest.skip("this torch has another OpenMP library")
    assert {*actual} == {"10000"}
    assert {*spin_counts(code, OMP_WAIT_POLICY="passive")} == {"0"}
