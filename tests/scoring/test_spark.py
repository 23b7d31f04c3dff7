"""docs/scaling.md's Spark job: its own text, on a local Spark of two workers."""

import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from llmsrec.scoring import histories
from llmsrec.scoring.score import Wanted, score
from llmsrec.serving.bundle import Bundle
from tests.scoring.test_score import of_data, write_lines

pytest.importorskip("pyspark", reason="Spark is not among the requirements; docs/scaling.md says how to install it")
if "JAVA_HOME" not in os.environ and not which("java"):
    pytest.skip("Spark needs Java", allow_module_level=True)
DOCUMENT = Path(__file__).parents[2] / "docs/scaling.md"


def test_two_workers_answer_as_the_single_process_does(
    data: Path, bundle: Bundle, registry: Any, tmp_path: Path
) -> None:
    (job,) = [code for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S) if "spark" in code]
    path = write_lines(tmp_path / "users.jsonl", of_data(data))
    start = 'from pyspark.sql import SparkSession; SparkSession.builder.master("local[2]").getOrCreate()\n'
    command = [sys.executable, "-c", start + job, "models:/llm-srec/1", path, tmp_path / "spark"]
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    environment["MLFLOW_TRACKING_URI"] = registry.uri
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    score(bundle, "llm-srec/1", histories.of_file(path), tmp_path / "out.parquet", Wanted("cf", 10))
    theirs = pl.read_parquet(tmp_path / "spark/*.parquet").sort("user_id", "rank")
    ours = pl.read_parquet(tmp_path / "out.parquet").sort("user_id", "rank").select(theirs.columns)
    assert_frame_equal(theirs, ours, check_dtypes=False, rel_tol=1e-5, abs_tol=1e-5)
