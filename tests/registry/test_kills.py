"""A promotion that SIGKILL ends before each of its writes: what is there then, and what the next command does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llmsrec.promotion import actions, aliases
from llmsrec.promotion.ledger import Decision, existing_ledger, open_ledger
from llmsrec.registry import tracking
from tests.registry.made import quick_smoke, write_params

# Reads (root, kill before which write) and promotes version 3 over version 2 in a process of its own, which a real
# SIGKILL ends there. All imports are done once; nothing is opened before the fork.
PROMOTER = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
import mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
from llmsrec.promotion import aliases

def promote(root, last):
    writes = 0
    wrote = set()
    def execute(connection, cursor, statement, *rest):
        if statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            wrote.add(connection)
    def commit(connection):
        nonlocal writes
        if connection in wrote:
            wrote.discard(connection)
            writes += 1
            if writes == last:
                os.kill(os.getpid(), signal.SIGKILL)
    event.listen(Engine, "before_cursor_execute", execute)
    event.listen(Engine, "commit", commit)
    before, after = {"previous": 1, "staging": 2}, {"previous": 2, "staging": 3}
    made = aliases.decide("promote", 3, "staging", before, after, 3)
    tags = {key: f"{key} of decision 3" for key in ("validation", "validation.by", "validation.at", "validation.sum")}
    made = replace(made, reason="killed", tags_after={**tags, "validation.decision": "3"})
    aliases.carry_out(root, "killed", {"previous": 1, "staging": 2, "champion": 1}, made, {"why": "test"}, "text")

print("ready", flush=True)
for line in sys.stdin:
    root, last = json.loads(line)
    child = os.fork()
    if not child:
        promote(Path(root), last)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
WRITES = 9  # the decision, five tags, two aliases, the outcome
AFTERWARDS = WRITES + 1


@pytest.fixture(scope="module")
def promoter() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", PROMOTER], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
        process.terminate()


@pytest.fixture(scope="module")
def root(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of `killed`, which are the same bundle."""
    root = tmp_path_factory.mktemp("kills")
    (root / "mlruns").mkdir()
    (root / "mlruns/mlflow.db").write_bytes((registry.root / "mlruns/mlflow.db").read_bytes())
    write_params(root)
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("model: gated", "model: killed"))
    with tracking.connected(root) as client:
        client.create_registered_model("killed")
        source = client.get_model_version("llm-srec", "1")
        for _ in range(3):
            client.create_model_version("killed", source.source, source.run_id, tags=dict(source.tags))
    return root


@pytest.fixture
def client(root: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Version 2 in staging after 1 by two decisions, and 3 with an older tag."""
    monkeypatch.setattr(actions, "smoke", quick_smoke)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    ledger = existing_ledger(opened, "killed")
    if ledger:
        opened.delete_run(ledger.run_id)
    for alias, version in {"previous": "1", "staging": "2", "champion": "1"}.items():
        opened.set_registered_model_alias("killed", alias, version)
    for tag in opened.get_model_version("killed", "3").tags:
        if tag.startswith("validation"):
            opened.delete_model_version_tag("killed", "3", tag)
    opened.set_model_version_tag("killed", "3", "validation", "of an older decision")
    ledger = open_ledger(opened, "killed", root)
    for number in (1, 2):
        ledger.claim(aliases.decide("promote", number, "staging", {"staging": number - 1}, {"staging": number}, number))
        ledger.close(number, "done")
    return opened


def kill(promoter: subprocess.Popen[str], root: Path, before: int) -> int:
    """The promotion's exit status."""
    assert promoter.stdin and promoter.stdout
    promoter.stdin.write(json.dumps([str(root), before]) + "\n")
    promoter.stdin.flush()
    return int(promoter.stdout.readline())


def validation(client: MlflowClient) -> dict[str, str]:
    tags = client.get_model_version("killed", "3").tags
    return {key: value for key, value in tags.items() if key.startswith("validation")}


def outcomes(client: MlflowClient) -> list[str | None]:
    ledger = existing_ledger(client, "killed")
    assert ledger
    return [decision.outcome for decision in ledger.decisions()]


@pytest.mark.parametrize("before", range(1, AFTERWARDS + 1))
def test_after_any_kill_a_rollback_works_at_once_and_nothing_is_left_half_done(
    client: MlflowClient, root: Path, promoter: subprocess.Popen[str], before: int
) -> None:
    assert kill(promoter, root, before) == (0 if before == AFTERWARDS else -9)
    moved = before >= WRITES  # all aliases, if not the outcome
    staging = aliases.read(client, "killed")["staging"]
    assert staging == (3 if moved else 2), "one or the other, at any time"

    _, made, now = actions.rollback(root, "staging", "at once")
    assert now and made.after == {"previous": None, "staging": 2 if moved else 1}
    assert aliases.read(client, "killed") == {"staging": 2 if moved else 1, "champion": 1}
    if before > 1:
        assert outcomes(client) == ["done", "done", "done" if moved else "undone", "done"]
    else:
        assert outcomes(client) == ["done", "done", "done"], "it had not begun"
    if moved:
        assert len(validation(client)) == 5 and validation(client)["validation.decision"] == "3"
    else:
        assert validation(client) == {"validation": "of an older decision"}


@pytest.mark.parametrize("before", [WRITES, AFTERWARDS])
def test_a_promotion_that_was_killed_at_its_end_and_is_run_again_is_so_already(
    client: MlflowClient, root: Path, promoter: subprocess.Popen[str], before: int
) -> None:
    kill(promoter, root, before)
    made = actions.review(root, "3", "staging", settle=True)
    assert isinstance(made, Decision) and (made.number, made.outcome) == (3, "done")
    assert aliases.read(client, "killed") == {"previous": 2, "staging": 3, "champion": 1}


def test_no_clock_decides_what_a_killed_promotion_is(client: MlflowClient, root: Path) -> None:
    """As where a clock ran a day ahead, or stood still."""
    ledger = existing_ledger(client, "killed")
    assert ledger
    for number, at in enumerate(("2999-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00"), start=3):
        made = aliases.decide("promote", 3, "staging", {"staging": 2}, {"staging": 3}, number)
        ledger.claim(aliases.replace(made, at=at))
        assert aliases.last(client, "killed", root, settle=True) == number
    assert outcomes(client) == ["done", "done", "undone", "undone"]
    assert aliases.read(client, "killed") == {"previous": 1, "staging": 2, "champion": 1}
