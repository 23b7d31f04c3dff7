"""The paper's runs through DVC's real queue, on a stage that takes no time."""

import json
import subprocess
from pathlib import Path

import pytest

from llmsrec.errors import DataError
from llmsrec.experiments import queue
from llmsrec.experiments.dvc import dvc
from llmsrec.experiments.runs import Run
from llmsrec.experiments.workspace import Workspace
from llmsrec.registry import revisions

DVC_YAML = """\
stages:
  register:
    cmd: python register.py
    params: [model, split, train]
    outs:
      - metrics/registered.json:
          cache: false
"""
REGISTER = """\
import json, pathlib, yaml
params = yaml.safe_load(open("params.yaml"))
assert params["train"]["seed"] != 13, "unlucky"
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/registered.json").write_text(json.dumps(params))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "register.py").write_text(REGISTER)
    (tmp_path / "params.yaml").write_text(
        "model:\n  distill: true\n  uniform: true\n  distill_loss: mse\n  user_representation: false\n"
        "split:\n  shuffle_train: false\ntrain:\n  targets: all\n  seed: 0\n"
    )
    monkeypatch.chdir(tmp_path)
    for command in (
        ("git", "init", "-q"),
        ("git", "config", "user.name", "test"),
        ("git", "config", "user.email", "test@example.org"),
        ("dvc", "init", "-q"),
        ("git", "add", "-A"),
        ("git", "commit", "-qm", "one"),
    ):
        subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setattr(queue, "ASK_S", 5)
    monkeypatch.setattr(queue, "LOOK_S", 0.2)
    return tmp_path


def test_what_is_missing_is_run_once_and_a_failure_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, workspace = [Run("retrieval-only"), Run("original")], Workspace(project)
    dvc(
        "exp", "run", "--queue", "--name", first[0].name, *first[0].overrides(workspace.values)
    )  # of a run that was killed
    queue.complete(first, workspace, jobs=1)
    commits = revisions.experiments_at_head(project)
    assert set(commits) == {one.name for one in first}
    registered = {
        name: json.loads(revisions.show(project, commit, "metrics/registered.json") or "")
        for name, commit in commits.items()
    }
    assert registered[first[0].name]["model"]["distill"] is False
    assert registered[first[1].name]["model"]["distill"] is True

    capsys.readouterr()
    queue.complete(first, workspace, jobs=1)
    assert revisions.experiments_at_head(project) == commits
    assert capsys.readouterr().out == ""
    assert dvc("queue", "status").count("paper-") == 2

    with pytest.raises(DataError, match=r"paper-original-main-s13 failed; `dvc queue logs paper-original-main-s13`"):
        queue.complete([Run("original", seed=13)], workspace, jobs=1)


def test_a_worker_that_is_at_work_is_not_waited_for(project: Path) -> None:
    waiting = f"import pathlib, time\nwhile not pathlib.Path({str(project / 'go')!r}).exists():\n    time.sleep(0.2)\n"
    (project / "register.py").write_text(waiting + REGISTER)
    subprocess.run(("git", "commit", "-qam", "it waits"), check=True)
    one, workspace = Run("original"), Workspace(project)
    dvc("exp", "run", "--queue", "--name", one.name, *one.overrides(workspace.values))
    dvc("queue", "start", "--jobs", "1")  # returns, though nothing can end before `go` is there
    assert revisions.experiments_at_head(project) == {}
    (project / "go").touch()
    queue.complete([one], workspace, jobs=1)
    assert set(revisions.experiments_at_head(project)) == {one.name}


@pytest.mark.parametrize(("answers", "asked"), [(["busy", "here"], 2), (["busy"] * 10, 10), (["gone", "here"], 1)])
def test_a_worker_that_answers_late_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], asked: int
) -> None:
    """DVC's own words; how soon a worker answers is chance."""
    none = "Worker status: 0 active, 0 idle\n"
    said = {
        "busy": f"023eba1  {Run('original').name}  01:33 PM  Running\n\n{none}",
        "here": f"023eba1  {Run('original').name}  01:33 PM  Running\n\nWorker status: 1 active, 0 idle\n",
        "gone": f"023eba1  {Run('original').name}  01:33 PM  Failed\n\n{none}",
    }
    remaining = iter(answers)
    monkeypatch.setattr(queue, "dvc", lambda *_: said[next(remaining)])
    monkeypatch.setattr(queue, "LOOK_S", 0)
    assert queue._status() == said[answers[asked - 1]]
    assert len(list(remaining)) == len(answers) - asked


def test_what_is_missing_is_queued_beside_a_worker_that_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As DVC leaves one now and then; it takes up what is queued."""
    run, asked = Run("original"), []

    def answer(*words: str) -> str:
        asked.append(words[:2])
        at_work = ("queue", "start") in asked
        return f"Worker status: {int(at_work)} active, {int(not at_work)} idle"

    monkeypatch.setattr(queue, "dvc", answer)
    monkeypatch.setattr(queue, "missing", lambda *_: [] if ("queue", "start") in asked else [run])
    monkeypatch.setattr(Run, "overrides", lambda *_: [])
    queue.complete([run], Workspace(Path()), jobs=1)
    assert ("exp", "run") in asked
