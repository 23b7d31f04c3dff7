"""The workflows of .github, read as GitHub does: what they may do, and what they call."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in YAML(typ="safe").load(path.read_text())["jobs"].values() for step in job["steps"]]


def test_there_is_one_for_the_tests_and_one_for_the_pipeline() -> None:
    calls = {path.name: re.findall(r"\bmake ([\w-]+)", path.read_text().partition("jobs:")[2]) for path in WORKFLOWS}
    assert "test" in calls["test.yml"] and "repro" in calls["pipeline.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_what_exists_and_may_only_read(path: Path) -> None:
    workflow = YAML(typ="safe").load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    for step in steps(path):
        assert "uses" in step or step["run"]
        assert set(re.findall(r"\bmake ([\w-]+)", step.get("run", ""))) <= TARGETS
        assert "${{" not in step.get("run", ""), "what others wrote reaches a shell only by `env`"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_a_commit_that_nobody_can_move_and_its_version_stands_beside_it(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert lines and len(lines) == sum("uses" in step for step in steps(path))
    for line in lines:
        assert re.fullmatch(r"\s+- uses: [\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line
