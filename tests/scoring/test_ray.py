"""docs/scaling.md's Ray Data job: its own text, on a local Ray of two workers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmsrec.scoring import histories
from llmsrec.scoring.score import Wanted, score
from llmsrec.serving.bundle import Bundle
from tests.scoring.test_score import of_data, write_lines

pytest.importorskip("ray", reason="Ray is not among the requirements; docs/scaling.md says how to install it")
DOCUMENT = Path(__file__).parents[2] / "docs/scaling.md"


def test_two_workers_answer_as_the_single_process_does(data: Path, bundle: Bundle, tmp_path: Path) -> None:
    (job,) = [code for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S) if "ray" in code]
    path = write_lines(tmp_path / "users.jsonl", of_data(data))
    start = "import ray; ray.init(num_cpus=4, include_dashboard=False)\n"
    command = [sys.executable, "-c", start + job, bundle.folder, path, tmp_path / "ray"]
    environment = {**os.environ, "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    score(bundle, "shop/3", histories.of_file(path), tmp_path / "out.parquet", Wanted("cf", 10))
    ours = pl.read_parquet(tmp_path / "out.parquet").sort("user_id", "rank")
    theirs = pl.read_parquet(tmp_path / "ray/*.parquet").sort("user_id", "rank")
    assert theirs["user_id"].equals(ours["user_id"]) and theirs["parent_asin"].equals(ours["parent_asin"])
    np.testing.assert_allclose(theirs["score"], ours["score"], rtol=1e-5, atol=1e-5)
