"""Aliases of a real registry: moved together and on the record, or left as they were."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.export import smoke as smoke_load
from llmsrec.export.smoke import smoke
from llmsrec.promotion import actions, after, aliases
from llmsrec.promotion.ledger import Aliases, existing_ledger
from llmsrec.registry import tracking
from llmsrec.serving.bundle import verify
from tests.registry.made import promote_at_once, quick_smoke, register_gated, with_registry


@pytest.fixture(scope="module")
def root(tiny: Any, registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gated` versions 1 and 2, better than SASRec, 2 better than 1; and 3, worse and deaf to order."""
    root = with_registry(tmp_path_factory.mktemp("gated"), registry)
    with tracking.connected(root) as client:
        for number, (better, order) in enumerate([(2, True), (4, True), (-4, False)], start=1):
            register_gated(client, root, tmp_path_factory.mktemp("made"), tiny, number, better, order)
    return root


@pytest.fixture
def client(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """Each test finds no alias and no decision. The files are verified each time; what they took is not measured."""
    monkeypatch.setattr(actions, "smoke", quick_smoke)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    for alias in opened.get_registered_model("gated").aliases:
        opened.delete_registered_model_alias("gated", alias)
    ledger = existing_ledger(opened, "gated")
    if ledger:
        opened.delete_run(ledger.run_id)
    yield opened


def run(capsys: Any, *arguments: str, fails: bool = False) -> str:
    assert cli.main(arguments) == int(fails)
    captured = capsys.readouterr()
    if fails:
        assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    return captured.err if fails else captured.out


def promote(capsys: Any, version: str, *more: str, to: str = "staging", fails: bool = False) -> str:
    return run(capsys, "promote", version, "--to", to, *more, fails=fails)


def aliased(client: MlflowClient) -> dict[str, int]:
    return aliases.read(client, "gated")


def test_a_versions_life(client: MlflowClient, capsys: Any) -> None:
    assert run(capsys, "history") == "no decisions on gated yet\n"
    shown = promote(capsys, "1")
    assert shown.startswith("bringing gated version 1 and its reports") and "smoke load: 10 requests of each" in shown
    assert "rule 6, load: holds" in shown and "nothing was changed" in shown
    assert aliased(client) == {} and existing_ledger(client, "gated") is None
    promote(capsys, "1", "--yes")
    promote(capsys, "2", "--yes")
    assert aliased(client) == {"staging": 2, "previous": 1}
    tags = client.get_model_version("gated", "2").tags
    assert (tags["validation"], tags["validation.decision"]) == ("passed", "2")
    assert tags["validation.bundle_sha256"] == tags["bundle_sha256"]
    promote(capsys, "staging", "--yes", to="champion")
    assert aliased(client) == {"staging": 2, "previous": 1, "champion": 2}
    assert "staging is version 1 again" in run(capsys, "rollback", "staging", "--reason", "clicks fell")
    assert aliased(client) == {"staging": 1, "champion": 2}
    lines = run(capsys, "history").splitlines()
    assert [line.split()[2] for line in lines] == ["promote", "promote", "promote", "rollback"]
    assert all(" done " in line for line in lines) and "'clicks fell'" in lines[3]
    text = run(capsys, "history", "2")
    assert "promote gated version 2 to staging" in text and "minus that of version 1 in staging" in text
    again = run(capsys, "rollback", "staging")  # as after a kill: it cannot know whether its outcome was seen
    assert "already so: decision 4 rolled staging back to version 1" in again
    assert aliased(client) == {"staging": 1, "champion": 2} and len(run(capsys, "history").splitlines()) == 4


def test_a_refusal_changes_nothing_and_says_by_how_much(client: MlflowClient, capsys: Any) -> None:
    before = client.get_model_version("gated", "3").tags
    said = promote(capsys, "3", "--yes", fails=True)
    assert "rule 4 (quality)" in said and "short by" in said and "rule 5 (order)" in said
    assert aliased(client) == {} and client.get_model_version("gated", "3").tags == before
    assert "without --reason" in promote(capsys, "3", "--yes", "--force", fails=True)
    promote(capsys, "3", "--yes", "--force", "--reason", "to see it live")
    assert aliased(client) == {"staging": 3}
    assert client.get_model_version("gated", "3").tags["validation"] == "forced"
    assert "forced against: quality, order, towers  'to see it live'" in run(capsys, "history")


def test_who_is_named_is_told_of_a_promotion_and_of_a_rollback_and_cannot_undo_them(
    client: MlflowClient, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(after, "BACKOFF_S", 0.01)
    path = root / "params.yaml"
    text = path.read_text()
    url, command = "    url:  ", "    command:  "
    assert text.count(url) == text.count(command) == 1
    nobody = "http://127.0.0.1:9/hooks/secret"
    path.write_text(
        text.replace(url, f"    url: {nobody}  ").replace(command, f"    command: cat >> {tmp_path}/told  ")
    )
    try:
        promote(capsys, "1", "--yes")
        said = promote(capsys, "2", "--yes")
        run(capsys, "promote", "3", "--to", "staging", "--yes", fails=True)
        promote(capsys, "2", "--yes")  # so already
        run(capsys, "rollback", "staging")
    finally:
        path.write_text(text)
    assert "warning: http://127.0.0.1:9 was not told: ConnectionError after 4 tries; the promotion stands" in said
    assert "registry.after_promotion.command was told" in said and "secret" not in said
    calls = [json.loads(line + "}") for line in (tmp_path / "told").read_text().split("}") if line]
    expected = [
        {"model": "gated", "version": v, "alias": "staging", "decision": d} for d, v in ((1, 1), (2, 2), (3, 1))
    ]
    assert calls == expected
    assert aliased(client) == {"staging": 1}


def test_a_reason_is_kept_wherever_one_is_given(client: MlflowClient, capsys: Any) -> None:
    promote(capsys, "1", "--yes", "--reason", "first of its kind")
    assert run(capsys, "history").rstrip().endswith("'first of its kind'")
    assert "- reason: first of its kind" in run(capsys, "history", "1")
    assert json.loads(run(capsys, "history", "--json"))[0]["reason"] == "first of its kind"


def test_a_version_is_named_with_its_model(
    client: MlflowClient, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("model: gated", "model: another"))
    try:
        said = promote(capsys, "1", "--model", "gated", "--yes")
        assert "staging is version 1; decision 1, see `llmsrec history 1 --model gated`" in said
        promote(capsys, "gated/2", "--yes")
        promote(capsys, "models:/gated@staging", "--yes", to="champion")
        assert aliased(client) == {"staging": 2, "previous": 1, "champion": 2}
        run(capsys, "rollback", "gated@staging")
        assert len(run(capsys, "history", "--model", "gated").splitlines()) == 4
        for more in (("gated/1",), ("models:/gated@staging",), ("--model", "gated/1"), ("1", "--model", "gated")):
            lines = run(capsys, "history", *more)
            assert lines.startswith("# Decision 1") if more[0] == "1" else len(lines.splitlines()) == 2, more
        assert "no decisions on gated version 3 yet" in run(capsys, "history", "gated/3")
        assert "not what --model other says" in run(capsys, "history", "gated/1", "--model", "other", fails=True)
        assert "another has no versions yet" in promote(capsys, "1", fails=True)
    finally:
        (root / "params.yaml").write_text(text)


@pytest.mark.parametrize(
    ("version", "to", "said"),
    [
        ("9", "staging", "gated has no version or alias '9'; versions: 1, 2, 3; aliases: none"),
        ("nothing", "staging", "gated has no version or alias 'nothing'"),
        ("1", "latest", "'latest' is reserved by MLflow"),
        ("1", "v3", "'v3' is reserved by MLflow"),
        ("1", "previous", "`previous` follows `staging`"),
        ("1", "champion", "only what is in staging becomes champion"),
    ],
)
def test_bad_input_is_one_line(client: MlflowClient, version: str, to: str, said: str, capsys: Any) -> None:
    assert said in promote(capsys, version, "--yes", to=to, fails=True)
    assert aliased(client) == {}


def test_altered_and_missing_files_are_refused(client: MlflowClient, root: Path, capsys: Any) -> None:
    version = client.get_model_version("gated", "1")
    model = Path(urlsplit(client.get_logged_model(version.source.removeprefix("models:/")).artifact_location).path)
    reports = Path(urlsplit(client.get_run(version.run_id).info.artifact_uri).path) / "reports"
    force = ("--yes", "--force", "--reason", "no matter")
    cases = [
        (model / "artifacts/bundle/items.parquet", b"altered", "items.parquet is not the file"),
        (reports / "ranks.parquet", b"altered", "are not those that were logged"),
        (reports / "ranks.parquet", None, "reports/ranks.parquet is missing"),
    ]
    for path, content, said in cases:
        kept = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        try:
            assert said in promote(capsys, "1", *force, fails=True)
        finally:
            path.write_bytes(kept)
        assert aliased(client) == {}
    client.delete_run(version.run_id)
    try:
        assert "mlflow runs restore" in promote(capsys, "1", *force, fails=True)
    finally:
        client.restore_run(version.run_id)


@pytest.mark.parametrize("alias", ["staging", "previous"])
def test_a_registry_that_fails_in_the_middle(client: MlflowClient, root: Path, alias: str, capsys: Any) -> None:
    promote(capsys, "1", "--yes")
    before, tags = aliased(client), client.get_model_version("gated", "2").tags
    trigger = (
        "CREATE TRIGGER broken BEFORE {} ON registered_model_aliases WHEN NEW.alias = '{}' "
        "BEGIN SELECT RAISE(ABORT, 'read-only'); END"
    )
    database = sqlite3.connect(root / "mlruns/mlflow.db")
    database.execute(trigger.format("INSERT" if alias == "previous" else "UPDATE", alias))
    database.commit()
    try:
        assert "The aliases are as they were" in promote(capsys, "2", "--yes", fails=True)
    finally:
        database.execute("DROP TRIGGER broken")
        database.commit()
        database.close()
    assert aliased(client) == before
    assert client.get_model_version("gated", "2").tags == tags
    assert " undone " in run(capsys, "history").splitlines()[-1]
    promote(capsys, "2", "--yes")


def test_a_registry_that_can_only_be_read(client: MlflowClient, root: Path, monkeypatch: Any, capsys: Any) -> None:
    promote(capsys, "1", "--yes")
    before, tags = aliased(client), client.get_model_version("gated", "2").tags
    monkeypatch.chdir(root)  # MLflow makes an empty folder `file:` here
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{root}/mlruns/mlflow.db?mode=ro&uri=true")
    assert "nothing was changed" in promote(capsys, "2")
    assert "readonly database" in promote(capsys, "2", "--yes", fails=True)
    assert aliased(client) == before and client.get_model_version("gated", "2").tags == tags


def test_a_version_that_no_run_made(client: MlflowClient, capsys: Any) -> None:
    model = client.get_logged_model(client.get_model_version("gated", "1").source.removeprefix("models:/"))
    orphan = str(client.create_model_version("gated", model.artifact_location).version)
    try:
        assert "no run" in promote(capsys, orphan, "--yes", "--force", "--reason", "no matter", fails=True)
        assert aliased(client) == {}
    finally:
        client.delete_model_version("gated", orphan)


def test_rules_that_changed_meanwhile(client: MlflowClient, root: Path, capsys: Any) -> None:
    verdict = actions.review(root, "1", "staging", settle=True)
    assert isinstance(verdict, actions.Verdict)
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("slice_margin: 0.02", "slice_margin: 0.01"))
    try:
        with pytest.raises(Exception, match="changed while the rules were checked"):
            actions.promote(root, verdict)
    finally:
        (root / "params.yaml").write_text(text)
    assert aliased(client) == {}


def test_what_is_so_already_is_no_error_and_no_decision(client: MlflowClient, capsys: Any) -> None:
    promote(capsys, "1", "--yes")
    for more in ((), ("--yes",)):
        assert "already so: staging is version 1 by decision 1" in promote(capsys, "1", *more)
    assert "no previous version" in run(capsys, "rollback", "staging", fails=True)
    client.set_registered_model_alias("gated", "staging", "2")
    assert "by no decision" in promote(capsys, "2", "--yes", fails=True)
    assert len(run(capsys, "history").splitlines()) == 1


def test_a_decision_that_runs_is_waited_for_and_one_that_hangs_is_named(
    client: MlflowClient, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    promote(capsys, "1", "--yes")
    monkeypatch.setattr(aliases, "PATIENCE", 0.2)
    with FileLock(root / aliases.LOCK):
        assert "another process decides" in run(capsys, "rollback", "staging", fails=True)
        assert "nothing was changed" in promote(capsys, "2"), "who only looks need not wait"


def test_a_decision_settled_from_elsewhere_while_its_maker_lives(
    client: MlflowClient, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Two machines share no lock: the one that is late puts back what it moved, and what the other moved stays."""
    promote(capsys, "1", "--yes")
    before, move = client.get_model_version("gated", "2").tags, aliases._move
    (tmp_path / "mlruns").mkdir()

    def stall(stalled: MlflowClient, model: str, to: Aliases) -> None:
        monkeypatch.setattr(aliases, "_move", move)
        assert aliases.last(client, model, tmp_path, settle=True) == 2
        move(stalled, model, to)

    monkeypatch.setattr(aliases, "_move", stall)
    assert "undid decision 2; nothing of yours was done" in promote(capsys, "2", "--yes", fails=True)
    assert aliased(client) == {"staging": 1} and client.get_model_version("gated", "2").tags == before
    promote(capsys, "2", "--yes")
    assert [line.split()[7] for line in run(capsys, "history").splitlines()] == ["done", "undone", "done"]


def test_an_alias_that_other_hands_moved_after_a_kill_stays(client: MlflowClient, root: Path, capsys: Any) -> None:
    promote(capsys, "1", "--yes")
    ledger = existing_ledger(client, "gated")
    assert ledger
    ledger.claim(
        aliases.decide("promote", 2, "staging", {"previous": None, "staging": 1}, {"previous": 1, "staging": 2}, 2)
    )
    client.set_registered_model_alias("gated", "previous", "1")  # killed here
    client.set_registered_model_alias("gated", "staging", "3")  # in MLflow's UI
    assert aliases.last(client, "gated", root, settle=True) == 2
    assert aliased(client) == {"staging": 3}
    assert [decision.outcome for decision in ledger.decisions()] == ["done", "undone"]


def test_two_at_once_from_two_processes(client: MlflowClient, root: Path, capsys: Any) -> None:
    promote(capsys, "1", "--yes")
    won, said = promote_at_once({2: root, 3: root})
    assert "made decision 2 at the same time" in said
    assert aliased(client) == {"staging": won, "previous": 1}


@pytest.mark.parametrize(("model", "towers"), [("tiny", ("teacher", "cf", "llm", "blend")), ("alone", ("teacher",))])
def test_a_bundle_answers_in_a_fresh_process_and_says_how_far_it_is(
    model: str, towers: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    exported = request.getfixturevalue(model).bundle
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    said: list[str] = []
    measured = smoke(bundle, 10, said.append)
    assert measured.problem is None
    assert measured.latency_ms and tuple(measured.latency_ms) == towers
    assert measured.peak_mb > 50
    assert said[0].startswith("loaded in ")
    assert [line for line in said if "13 of 13" in line] == [
        f"tower {name}: 13 of 13 requests answered" for name in towers
    ]
    assert verify(bundle) == verify(exported), "it leaves nothing behind"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('no towers here')", "ValueError: no towers here"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import time; time.sleep(60)", "10 requests of each tower took more than 2 s"),
    ],
)
def test_a_bundle_that_does_not_answer_has_a_problem(
    code: str, said: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(tiny.bundle, tmp_path / "bundle"))
    (bundle / "code/llmsrec/serving/schema.py").write_text(code)
    monkeypatch.setattr(smoke_load, "LONGEST_S", 2 if "sleep" in code else 60)
    assert smoke(bundle, 10).problem == said
