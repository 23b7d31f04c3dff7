"""A growing data set: what is in staging was tested on older data, and is asked about the newer test users."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.files import sha256
from llmsrec.promotion import actions, aliases
from llmsrec.registry import record, tracking
from tests.registry.made import quick_smoke, register_gated, with_registry


@pytest.fixture(scope="module")
def root(tiny: Any, registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gated` version 1 on the first week's data; 2 on the second's, with new items; 3 on it too, and bad."""
    root = with_registry(tmp_path_factory.mktemp("growing"), registry)
    with tracking.connected(root) as client:
        for number, (better, order, new) in enumerate([(2, True, 0), (6, True, 4), (-9, True, 4)], start=1):
            register_gated(client, root, tmp_path_factory.mktemp("made"), tiny, number, better, order, new)
    return root


@pytest.fixture
def client(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """Version 1 is in staging."""
    monkeypatch.setattr(actions, "smoke", quick_smoke)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    for alias in opened.get_registered_model("gated").aliases:
        opened.delete_registered_model_alias("gated", alias)
    assert cli.main(["promote", "1", "--to", "staging", "--yes"]) == 0
    yield opened


def files_of(client: MlflowClient, number: str) -> tuple[Path, Path]:
    """The folders of a version's model and of its run's reports."""
    version = client.get_model_version("gated", number)
    model = client.get_logged_model(version.source.removeprefix("models:/")).artifact_location
    reports = client.get_run(version.run_id).info.artifact_uri + "/reports"
    return Path(urlsplit(model).path), Path(urlsplit(reports).path)


def test_a_version_of_newer_data_is_promoted_without_force(client: MlflowClient, capsys: Any) -> None:
    capsys.readouterr()
    assert cli.main(["promote", "2", "--to", "staging", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "tested on other data, so asked about 40 test users of version 2" in said
    assert "their last items that it does not know, each a miss" in said and "10 of 40" in said
    assert aliases.read(client, "gated") == {"staging": 2, "previous": 1}
    assert client.get_model_version("gated", "2").tags["validation"] == "passed"
    assert cli.main(["promote", "staging", "--to", "champion", "--yes"]) == 0


def test_a_version_of_newer_data_that_is_worse_is_refused_by_how_much(client: MlflowClient, capsys: Any) -> None:
    assert cli.main(["promote", "3", "--to", "staging", "--yes"]) == 1
    assert "NDCG@10 full minus that of version 1 in staging, lower bound" in capsys.readouterr().err
    assert aliases.read(client, "gated") == {"staging": 1}


def test_what_cannot_be_loaded_is_a_clear_refusal(client: MlflowClient, capsys: Any) -> None:
    model, _ = files_of(client, "1")
    catalogue = model / "artifacts/bundle/items.parquet"
    kept = catalogue.read_bytes()
    catalogue.write_bytes(b"altered")
    try:
        assert cli.main(["promote", "2", "--to", "staging", "--yes"]) == 1
    finally:
        catalogue.write_bytes(kept)
    said = capsys.readouterr().err
    assert "version in staging: gated version 1 is not what was registered" in said
    assert "items.parquet is not the file" in said and said.count("\n") == 1
    assert aliases.read(client, "gated") == {"staging": 1}


def test_altered_test_users_are_refused(client: MlflowClient, capsys: Any) -> None:
    _, reports = files_of(client, "2")
    path = reports / record.TEST_USERS
    kept = path.read_bytes()
    for content in (b"altered", None):
        path.unlink() if content is None else path.write_bytes(content)
        try:
            assert cli.main(["promote", "2", "--to", "staging", "--yes", "--force", "--reason", "no matter"]) == 1
        finally:
            path.write_bytes(kept)
        assert "are not those that were logged" in capsys.readouterr().err
    assert aliases.read(client, "gated") == {"staging": 1}


def test_a_version_from_before_test_users_were_kept(client: MlflowClient, root: Path, tiny: Any, capsys: Any) -> None:
    """They come from the workspace if that holds the data; else it says what helps."""
    _, reports = files_of(client, "2")
    kept = {path.name: path.read_bytes() for path in (reports / record.TEST_USERS, reports / "comparison.json")}
    run_id = client.get_model_version("gated", "2").run_id
    sealed, filtered = client.get_run(run_id).data.tags[record.SEALED], tiny.folder / "data/filtered"
    try:
        (reports / record.TEST_USERS).unlink()
        client.set_tag(run_id, record.SEALED, record.seal(reports))
        assert cli.main(["promote", "2", "--to", "staging", "--yes"]) == 1
        assert "registered before test users were kept" in capsys.readouterr().err
        shutil.copytree(filtered, root / "data/filtered")
        assert sha256(root / "data/filtered") == tiny.config["data"]["filtered"]
        assert cli.main(["promote", "2", "--to", "staging"]) == 0
        assert "asked about 40 test users of version 2" in capsys.readouterr().out
    finally:
        shutil.rmtree(root / "data", ignore_errors=True)
        for name, content in kept.items():
            (reports / name).write_bytes(content)
        client.set_tag(run_id, record.SEALED, sealed)
