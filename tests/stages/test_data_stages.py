"""ingest through DVC, in a repository of its own: the user's own files, and what a change re-runs."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    environment |= {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def stages_that_ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    marks = ("Running stage '", "Stage '")
    lines = [line for line in done.stdout.splitlines() if line.startswith(marks[0]) or "is cached" in line]
    return [line.split("'")[1].split(":")[-1] for line in lines]


def reviews(path: Path, users: int) -> None:
    """`users` users, each of whom bought five of six items."""
    with gzip.open(path, "wt") as file:
        for user in range(users):
            for step in range(5):
                item = f"i{(user + step) % 6}"
                review = {"user_id": f"u{user}", "parent_asin": item, "rating": 5.0, "timestamp": 10**12 + step}
                file.write(json.dumps(review) + "\n")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The code of these stages, with the user's own files beside it."""
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__", "files.json"))
    (folder / "src/llmsrec").mkdir(parents=True)
    shutil.copytree(ROOT / "src/llmsrec/data", folder / "src/llmsrec/data")
    shutil.copy(ROOT / "src/llmsrec/times.py", folder / "src/llmsrec")
    yaml = YAML()
    pipeline = yaml.load((ROOT / "dvc.yaml").read_text())
    yaml.dump({"stages": {name: pipeline["stages"][name] for name in ("ingest", "filter")}}, folder / "dvc.yaml")
    params = yaml.load((ROOT / "params.yaml").read_text())
    params["data"] |= {"source": "files", "category": "Own", "dir": "../incoming"}
    yaml.dump(params, folder / "params.yaml")
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    reviews(incoming / "Own.jsonl.gz", 6)
    (incoming / "meta_Own.jsonl").write_text('{"parent_asin": "i0", "title": "A &amp; B"}\n')
    for command in ("git init -q", "dvc init -q", "git add -A", "git commit -qm x"):
        assert run(folder, *command.split()).returncode == 0
    return folder


def test_a_changed_file_runs_ingest_again_and_an_unchanged_one_does_not(repository):
    repro = ("dvc", "repro", "ingest")
    assert stages_that_ran(run(repository, *repro)) == ["files", "ingest"]
    assert stages_that_ran(run(repository, *repro)) == ["files"]
    reviews(repository.parent / "incoming/Own.jsonl.gz", 12)
    temporary = run(repository, "dvc", "exp", "run", "--temp", "ingest")  # runs in a copy elsewhere
    assert stages_that_ran(temporary) == ["files", "ingest"]
    (repository.parent / "incoming/Own.jsonl.gz").unlink()
    failed = run(repository, *repro)
    assert failed.returncode != 0
    assert "Own.jsonl[.gz] is not there" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert pl.read_parquet(repository / "data/raw/reviews.parquet").height == 30  # what was there


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"user_id": "u"'], "Own.jsonl, line 1 is not valid JSON"),
        (['{"user_id": "u", "parent_asin": "i", "rating": 5, "timestamp": 1000000000000}'], "no event is left"),
    ],
)
def test_bad_input_is_one_line_without_a_traceback(repository, lines, message):
    own = repository.parent / "incoming/Own.jsonl.gz"
    own.unlink()
    own.with_suffix("").write_text("\n".join(lines))
    run(repository, sys.executable, "-m", "stages.sources.files")
    done = run(repository, sys.executable, "-m", "stages.ingest")
    if done.returncode == 0:
        done = run(repository, sys.executable, "-m", "stages.filter")
    assert done.returncode == 1
    assert done.stderr.startswith("error in stage ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_hub_refuses_an_unknown_category_before_any_download(repository):
    yaml = YAML()
    params = yaml.load(repository / "params.yaml")
    params["data"] |= {"source": "hub", "category": "Movies"}
    yaml.dump(params, repository / "params.yaml")
    done = run(repository, sys.executable, "-m", "stages.ingest")
    assert done.returncode == 1
    assert "data.category: Movies is not a category" in done.stderr
    assert "the nearest is Movies_and_TV" in done.stderr
