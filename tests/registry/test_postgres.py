"""The registry of a team: PostgreSQL behind a real MLflow server that also keeps the files; all goes over HTTP."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec import params as parameters
from llmsrec.errors import ParamsError
from llmsrec.promotion import actions, aliases
from llmsrec.registry import tracking
from llmsrec.registry.record import Record
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import parse
from llmsrec.tuning import study
from llmsrec.tuning.command import log
from tests.answers import assert_same_answer
from tests.registry.made import promote_at_once, quick_smoke, register_gated, write_params
from tests.servers import free_port


class Server:
    """`mlflow server`, which can be killed and started again."""

    def __init__(self, database: str, files: Path) -> None:
        self.port, self.files = free_port(), files
        self.uri = f"http://127.0.0.1:{self.port}"
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--backend-store-uri", database, "--artifacts-destination", str(files)),
        ]
        self._log = files.parent / "server.log"
        self.start()

    def start(self) -> None:
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, **quiet}, start_new_session=True
            )
        for _ in range(600):
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            try:
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise AssertionError(self._log.read_text()[-3000:])

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)  # and its workers; it began a session of its own
            self._process.wait()


@pytest.fixture(scope="module")
def server(tiny: Any, postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With `gated` versions 1 and 2, each better than the one before, and the worse 3, registered over HTTP."""
    started = Server(postgres, tmp_path_factory.mktemp("server") / "files")
    root = tmp_path_factory.mktemp("trainer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", started.uri)
        with tracking.connected(root) as client:
            for number, (better, order) in enumerate([(2, True), (4, True), (-4, False)], start=1):
                register_gated(client, root, tmp_path_factory.mktemp("made"), tiny, number, better, order)
    yield started
    started.kill()


@pytest.fixture
def root(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that has trained nothing and knows the server's address alone."""
    write_params(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return tmp_path


@pytest.fixture
def client(server: Server) -> MlflowClient:
    return MlflowClient(server.uri)


def run(capsys: Any, *arguments: str, fails: bool = False) -> str:
    assert cli.main(arguments) == int(fails), capsys.readouterr()
    captured = capsys.readouterr()
    if fails:
        assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    return captured.err if fails else captured.out


def promote(capsys: Any, version: str, fails: bool = False) -> str:
    return run(capsys, "promote", version, "--to", "staging", "--yes", fails=fails)


def test_a_versions_life_over_http(
    root: Path, client: MlflowClient, tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(actions, "smoke", quick_smoke)  # a busy machine's latency decides nothing here
        promote(capsys, "1")
        promote(capsys, "2")
        assert "rule 4 (quality)" in promote(capsys, "3", fails=True)
    assert aliases.read(client, "gated") == {"staging": 2, "previous": 1}
    assert client.get_model_version("gated", "2").tags["validation"] == "passed"
    assert "staging is version 1 again" in run(capsys, "rollback", "staging", "--reason", "test")
    assert aliases.read(client, "gated") == {"staging": 1}
    lines = run(capsys, "history").splitlines()
    assert [line.split()[2] for line in lines] == ["promote", "promote", "rollback"]
    assert "minus that of version 1 in staging" in run(capsys, "history", "2")
    assert not (root / "mlruns/mlflow.db").exists()

    bundle = tracking.bundle_of("models:/gated@staging", root)
    asked = parse([{"history": [{"parent_asin": "B3", "timestamp": 1_391_040_000_000}], "k": 3, "tower": "cf"}])
    (actual,), (expected,) = (Recommender.load(place).recommend(asked) for place in (bundle, tiny.bundle))
    assert_same_answer(actual.model_dump(), expected.model_dump())


def test_two_machines_at_once(
    root: Path, client: MlflowClient, tmp_path_factory: pytest.TempPathFactory, forgotten: None, capsys: Any
) -> None:
    """No file is shared between the two, so no lock: the database decides."""
    promote(capsys, "1")
    won, said = promote_at_once({2: root, 3: tmp_path_factory.mktemp("second")})
    assert "made decision 2 at the same time" in said
    assert aliases.read(client, "gated") == {"staging": won, "previous": 1}
    assert run(capsys, "history").count(" done ") == 2


def test_a_server_that_dies_in_the_middle(
    root: Path, server: Server, client: MlflowClient, forgotten: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    promote(capsys, "1")
    move = aliases._move

    def die_first(*arguments: Any) -> None:
        server.kill()
        move(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(aliases, "_move", die_first)
        said = promote(capsys, "2", fails=True)
    assert "MLflow failed in the middle" in said and "decision 2 is unfinished" in said
    assert f"the registry at {server.uri} does not answer" in promote(capsys, "2", fails=True)

    server.start()
    assert aliases.read(client, "gated") == {"staging": 1}
    assert " unfinished " in run(capsys, "history").splitlines()[-1]
    promote(capsys, "2")
    assert aliases.read(client, "gated") == {"staging": 2, "previous": 1}
    assert [line.split()[7] for line in run(capsys, "history").splitlines()] == ["done", "undone", "done"]


SECRET = "s3cr3t-Pa55w0rd.x"


def test_no_password_is_left_anywhere_in_a_versions_life(
    root: Path,
    server: Server,
    postgres: str,
    tiny: Any,
    tmp_path_factory: pytest.TempPathFactory,
    forgotten: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    """In URIs of the server, of its database and of a study's storage, in params.yaml, in a reason, in errors."""
    direct = postgres.replace("//mlflow@", f"//mlflow:{SECRET}@")  # it trusts whoever comes, with any password
    uri = server.uri.replace("//", f"//me:{SECRET}@")
    with sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sqlalchemy.text("CREATE DATABASE studies"))
    studies = direct.replace("/postgres", "/studies")
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("  storage:", f"  storage: {studies}"))
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with tracking.connected(root) as client:
        place = tracking.experiment(client, "llm-srec", root)
        entry = Record(
            digest="5" * 64,
            name="secrets",
            params={"backbone.model": f"https://{SECRET}@hub.example/m"},
            evaluation={},
            curve=[],
            tags={"backbone": direct},
            files={"": [root / "params.yaml"]},
        )
        tracking.ensure_run(client, place, entry)
        register_gated(client, root, tmp_path_factory.mktemp("made"), tiny, 4, 4, True)
    promote(capfd, "1")
    run(capfd, "promote", "4", "--to", "staging", "--yes", "--reason", f"see {direct}")
    run(capfd, "rollback", "staging", "--reason", f"password={SECRET}")
    said = run(capfd, "history") + run(capfd, "history", "--json") + run(capfd, "history", "2")
    said += run(capfd, "compare", "1", "4", "--no-latency")

    params = parameters.load(root / "params.yaml")
    shared = study.begin(params, {}, root)
    shared.enqueue_trial({}, user_attrs={"error": str(ParamsError(f"cannot reach {direct}"))})
    log(shared, params, root, [])
    said += run(capfd, "tune", "show")
    other = params.model_copy(update={"train": params.train.model_copy(update={"epochs": 99})})
    with pytest.raises(ParamsError) as caught:
        study.begin(other, {}, root)
    said += str(caught.value)

    with monkeypatch.context() as patch, pytest.raises(ParamsError, match="not MLflow's") as caught:
        patch.setenv("OPTUNA_STORAGE", direct)
        study.find(params, root)
    said += str(caught.value)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", direct)
    said += run(capfd, "history") + run(capfd, "promote", "9", "--to", "staging", fails=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with monkeypatch.context() as patch:
        patch.setattr(aliases, "_move", lambda *_: server.kill())  # and so the undoing fails, too
        said += promote(capfd, "4", fails=True)
    said += promote(capfd, "4", fails=True) + run(capfd, "history", fails=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", direct.replace("/postgres", "/nothing"))
    said += run(capfd, "history", fails=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    server.start()

    assert "***" in said and SECRET not in said
    kept = {path: path.read_bytes() for folder in (root, server.files) for path in folder.rglob("*") if path.is_file()}
    del kept[root / "params.yaml"]  # its owner's
    assert any(path.name == "0002.json" for path in kept)
    assert [str(path) for path, content in kept.items() if SECRET.encode() in content] == []
    for database in (postgres, studies):
        engine = sqlalchemy.create_engine(database, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            for table in sqlalchemy.inspect(engine).get_table_names():
                rows = str(connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"')).all())
                assert SECRET not in rows, table


@pytest.fixture
def forgotten(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """No alias and no decision, and a quick smoke load."""
    from llmsrec.promotion.ledger import existing_ledger

    monkeypatch.setattr(actions, "smoke", quick_smoke)
    for alias in aliases.read(client, "gated"):
        client.delete_registered_model_alias("gated", alias)
    ledger = existing_ledger(client, "gated")
    if ledger:
        client.delete_run(ledger.run_id)
