"""A registry that is down: one line within seconds, whatever asks and however it is down."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest

from llmsrec import cli
from llmsrec.errors import DataError, ParamsError
from llmsrec.files import write_json
from llmsrec.registry import address, follow, greeting, tracking
from llmsrec.tuning import study
from tests.registry.made import write_params
from tests.servers import free_port

PASSWORD = "s3cr3t-passw0rd"
COMMANDS = {
    "promote": ["promote", "1", "--to", "staging", "--yes"],
    "rollback": ["rollback", "staging"],
    "history": ["history"],
    "compare": ["compare", "1", "2"],
    "recommend": ["recommend", "--history", "B1@1391040000000"],
    "registered": ["registered"],
    "tune": ["tune"],
}


@pytest.fixture(params=["closed", "silent"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """One that nobody listens at, or whoever listens there accepts and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen(50)
        else:
            listener.close()
        yield listener.getsockname()[1] if request.param == "silent" else free_port()


def url(scheme: str, port: int) -> str:
    return f"{scheme}://me:{PASSWORD}@127.0.0.1:{port}" + ("/db" if "sql" in scheme else "")


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_every_command_says_in_one_line_that_the_registry_is_down(
    scheme: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    write_params(tmp_path)
    write_json(tmp_path / "metrics/registered.json", {"name": "gated", "version": 1, "run_id": "0"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url(scheme, port))
    assert greeting.ANSWER_S < 10, "with the start of Python it is said within 15 s"
    monkeypatch.setattr(greeting, "ANSWER_S", 0.5 if scheme == "http" else 2)  # psycopg waits no shorter
    for name in COMMANDS if scheme == "http" else ("rollback", "recommend", "tune"):
        began = time.monotonic()
        assert cli.main(COMMANDS[name]) == 1
        said = capfd.readouterr()
        assert time.monotonic() - began < 10 and said.out == ""
        assert said.err.startswith(f"llmsrec {name}: the registry at {scheme}://me:***@127.0.0.1:{port}")
        assert "does not answer: " in said.err and said.err.count("\n") == 1
    with pytest.raises(DataError, match="does not answer"), tracking.connected(tmp_path):  # as the stage `register`
        pass


def test_a_studys_storage_that_is_down(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmsrec import params

    write_params(tmp_path)
    monkeypatch.setenv("OPTUNA_STORAGE", url("postgresql+psycopg", port))
    monkeypatch.setitem(study.PATIENCE, "postgresql", {"connect_timeout": 2})
    with pytest.raises(ParamsError, match=r"storage postgresql.*://me:\*\*\*@.*cannot be used") as caught:
        study.find(params.load(tmp_path / "params.yaml"), tmp_path)
    assert PASSWORD not in str(caught.value) and "\n" not in str(caught.value)


def test_the_service_says_it_too(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "ANSWER_S", 1)
    before = mlflow.get_tracking_uri()
    try:
        with pytest.raises(DataError, match=r"the registry at http://me:\*\*\*@127.0.0.1:\d+ does not answer"):
            follow.Registry(url("http", port), "models:/gated/1").version()
    finally:
        mlflow.set_tracking_uri(before)


def test_a_server_that_answers_anything_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy that asks for a log-in, or has no such page."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # answers 501 to everything
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}/mlflow/")
        address.reachable(tmp_path)


def test_what_was_given_is_the_environment_again_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    given = address.tracking_uri(tmp_path)
    with pytest.raises(DataError), tracking.session(tmp_path, "Run it again"):
        pass
    assert address.tracking_uri(tmp_path) == given


@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite+pysqlite:///{}", "sqlite:///file:{}?mode=ro&uri=true"])
def test_a_database_file_is_asked_for_however_its_url_is_written(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a b.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url.format(path))
    with pytest.raises(DataError, match=r"no registry at sqlite.*set it to a database that is there"):
        address.require(tmp_path)
    assert not path.exists()
    path.touch()
    address.require(tmp_path)
