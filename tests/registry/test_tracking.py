import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec.errors import DataError, RequestError
from llmsrec.registry import address, tracking
from llmsrec.serving.bundle import seal, verify
from llmsrec.serving.recommender import Recommender
from tests.registered import copied


@pytest.fixture
def client(registry: Any) -> MlflowClient:
    return MlflowClient(registry.uri)


def place(client: MlflowClient) -> str:
    return client.get_experiment_by_name("llm-srec").experiment_id


def runs(client: MlflowClient, digest: str) -> list[Any]:
    return client.search_runs([place(client)], filter_string=f"tags.`llmsrec.digest` = '{digest}'")


def test_a_run_has_params_metrics_curve_data_tags_and_files(registry: Any, client: MlflowClient) -> None:
    run = client.get_run(registry.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "Sample, embedded")
    assert run.data.params == {"model.uniform": "True", "model.weights.distill": "1.0", "backbone.revision": "None"}
    later = ("train/", "check/", "on/")  # the last: of `llmsrec evaluate`, which other tests run
    logged = {key: value for key, value in run.data.metrics.items() if not key.startswith(later)}
    assert logged == {"test/uni99/ndcg_10": 0.5, "test/uni99/ndcg_10/cold": 0.25, "sasrec/test/uni99/ndcg_10": 0.4}
    curve = client.get_metric_history(registry.run_id, "check/valid/uni99/ndcg_10")
    assert [(point.step, point.value) for point in curve] == [(step, step / 1000) for step in range(1, 700)]
    assert len(client.get_metric_history(registry.run_id, "train/loss")) == 699
    assert {(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs} == {
        ("raw", "a" * 36),
        ("split", "b" * 36),
    }
    assert run.data.tags["data.category"] == "Sample"
    assert {file.path for file in client.list_artifacts(registry.run_id)} == {"cards", "reports", "training.png"}
    assert [file.path for file in client.list_artifacts(registry.run_id, "reports")] == ["reports/parity.json"]


def test_everything_lies_below_the_root(registry: Any, client: MlflowClient) -> None:
    assert client.get_run(registry.run_id).info.artifact_uri.startswith(f"{registry.root.as_uri()}/mlruns/artifacts/")
    assert sorted(path.name for path in (registry.root / "mlruns").iterdir()) == [".lock", "artifacts", "mlflow.db"]
    assert not Path("mlruns/1").exists()


def test_a_version_is_linked_described_and_tagged(registry: Any, client: MlflowClient) -> None:
    version = client.get_model_version_by_alias("llm-srec", "candidate")
    assert (int(version.version), version.run_id, version.description) == (1, registry.run_id, "A description.")
    assert version.tags.pop("model_sha256")
    assert version.tags == {"data.category": "Sample", "bundle_sha256": verify(registry.bundle)}


def test_again_finds_the_same_run_and_version(registry: Any, client: MlflowClient) -> None:
    before = [client.get_metric_history(registry.run_id, "train/loss"), len(client.search_runs([place(client)]))]
    with tracking.connected(registry.root) as connected:
        assert tracking.ensure_run(connected, place(client), registry.record) == registry.run_id
        again = tracking.ensure_version(connected, place(client), registry.run_id, "llm-srec", registry.bundle, {})
    assert again == registry.version
    assert [
        client.get_metric_history(registry.run_id, "train/loss"),
        len(client.search_runs([place(client)])),
    ] == before
    assert len(client.search_model_versions("name = 'llm-srec'")) == 1


def test_a_registration_loads_the_language_model_once(
    registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, warm = [], Recommender.warm
    monkeypatch.setattr(Recommender, "warm", lambda recommender: (loaded.append(recommender), warm(recommender)))
    with tracking.connected(copied(registry, tmp_path)) as connected:
        run_id = connected.create_run(place(connected)).info.run_id
        tracking.ensure_version(connected, place(connected), run_id, "other", registry.bundle, {})
    assert len(loaded) == 1


def test_no_two_runs_have_one_name(registry: Any, client: MlflowClient) -> None:
    with tracking.connected(registry.root) as connected:
        run_id = tracking.ensure_run(connected, place(client), registry.other("7"))
    assert client.get_run(run_id).info.run_name == "Sample, embedded #777777"
    assert client.get_experiment(place(client)).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_run_that_was_cut_short_is_completed_not_doubled(registry: Any, client: MlflowClient) -> None:
    record = registry.other("e")
    cut = client.create_run(place(client), tags={"llmsrec.digest": record.digest})
    client.log_param(cut.info.run_id, "model.uniform", "True")
    with tracking.connected(registry.root) as connected:
        tracking._log(connected, cut.info.run_id, cut.info.start_time, record)  # killed before it was marked finished
        assert tracking.ensure_run(connected, place(client), record) == cut.info.run_id
    (actual,) = runs(client, record.digest)
    assert actual.info.status == "FINISHED"
    assert actual.data.params["model.weights.distill"] == "1.0"
    assert len(client.get_metric_history(cut.info.run_id, "train/loss")) == 699
    assert len(client.get_run(cut.info.run_id).inputs.dataset_inputs) == 2


def test_a_model_that_was_logged_but_not_registered_is_used(
    registry: Any, client: MlflowClient, tmp_path: Path
) -> None:
    bare = shutil.ignore_patterns("__pycache__")  # other tests run the code in there
    changed = Path(shutil.copytree(registry.bundle, tmp_path / "bundle", ignore=bare))
    (changed / "parity.json").write_text("{}")
    digest = seal(changed)
    with tracking.connected(registry.root) as connected:
        run_id = tracking.ensure_run(connected, place(client), registry.other("f"))
        model_id = tracking._log_model(run_id, changed, digest)  # killed before it was registered
        version = tracking.ensure_version(connected, place(client), run_id, "other", changed, {})
    assert client.get_model_version("other", str(version)).source == f"models:/{model_id}"
    logged = client.search_logged_models([place(client)], filter_string=f"source_run_id = '{run_id}'")
    assert [model.model_id for model in logged] == [model_id]
    assert verify(changed) == digest  # logging leaves the folder, which is an out of DVC's, as it was
    assert not list(changed.rglob("__pycache__"))


def test_two_at_once_make_one_run_and_one_version(registry: Any, client: MlflowClient) -> None:
    def register(_: int) -> tuple[str, int]:
        with tracking.connected(registry.root) as connected:
            run_id = tracking.ensure_run(connected, place(client), registry.other("9"))
            return run_id, tracking.ensure_version(connected, place(client), run_id, "twins", registry.bundle, {})

    with ThreadPoolExecutor(2) as pool:  # each opens the lock file for itself, as two processes do
        first, second = pool.map(register, range(2))
    assert first == second
    assert len(runs(client, "9" * 64)) == len(client.search_model_versions("name = 'twins'")) == 1


def test_the_environments_uri_wins_and_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch, registry: Any) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.connected(registry.root) as connected:
        assert connected.tracking_uri == registry.uri
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert address.tracking_uri(registry.root) == "http://127.0.0.1:1"


def test_a_deleted_experiment_says_how_to_bring_it_back(registry: Any, client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment("gone"))
    with (
        pytest.raises(DataError, match=r"'gone' is deleted.*mlflow experiments restore"),
        tracking.connected(registry.root) as connected,
    ):
        tracking.experiment(connected, "gone", registry.root)


def test_what_mlflow_refuses_is_one_error(registry: Any) -> None:
    with pytest.raises(DataError, match="MLflow at sqlite") as caught, tracking.connected(registry.root) as connected:
        connected.get_run("no-such-run")
    assert "\n" not in str(caught.value)


def test_bundle_of_a_version(registry: Any, tmp_path: Path) -> None:
    assert verify(tracking.bundle_of("models:/llm-srec@candidate", registry.root)) == verify(registry.bundle)
    assert verify(tracking.bundle_of("models:/llm-srec/1", registry.root)) == verify(registry.bundle)
    with pytest.raises(RequestError, match="nothing"):
        tracking.bundle_of("models:/llm-srec@nothing", registry.root)
    with pytest.raises(DataError, match="no registry at"):
        tracking.bundle_of("models:/llm-srec@candidate", tmp_path)


def test_reading_a_version_needs_no_lock_which_a_read_only_disk_refuses(registry: Any) -> None:
    with tracking.locked(registry.root):  # as held by another process that registers
        assert verify(tracking.bundle_of("models:/llm-srec/1", registry.root)) == verify(registry.bundle)


def test_the_command_line_recommends_from_the_registry(
    registry: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(registry.root))
    arguments = ["--tower", "cf", "--history", "B1@1391040000000", "--json"]
    assert cli.main(["recommend", *arguments]) == 0, capsys.readouterr().err
    registered = capsys.readouterr().out
    assert cli.main(["recommend", "--bundle", str(registry.bundle), *arguments]) == 0
    assert capsys.readouterr().out == registered
    assert verify(registry.bundle)  # nothing was left in it
