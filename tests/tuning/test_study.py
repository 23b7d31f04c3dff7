"""A study over a real sqlite database: it goes on, is shared, and survives a killed worker."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from llmsrec import cli
from llmsrec import params as parameters
from llmsrec.errors import DataError, ParamsError
from llmsrec.tuning import space, study

WORKER = [sys.executable, "-c", "import sys; from llmsrec import cli; sys.exit(cli.main(['tune']))"]


def load(folder: Path, storage: str | None = None) -> optuna.Study:
    return optuna.load_study(study_name="llm-srec", storage=storage or f"sqlite:///{folder}/mlruns/tune.db")


def trained(values: list[float]) -> Any:
    """A trainer of no model: a trial's checks are `values`, but for what d' adds."""

    def train(params: parameters.Params, resume: Path, check: Any) -> list[dict[str, Any]]:
        curve: list[dict[str, Any]] = []
        for value in values:
            curve.append({"valid/uni99/ndcg_10": value + params.model.d_prime / 1000, "step": len(curve)})
            check(curve)
        return curve

    return train


def worked(place: Any, train: Any, **edits: Any) -> optuna.Study:
    if edits:
        place.edit(**edits)
    params = parameters.load(place.folder / "params.yaml")
    begun = study.begin(params, {}, place.folder)
    study.Worker(begun, params, train, place.folder / ".resume/tune", lambda: None).work()
    return begun


def test_the_first_trial_is_the_papers_and_once(place: Any) -> None:
    actual = worked(place, trained([0.1, 0.3, 0.2]))
    assert actual.trials[0].params == {"model.d_prime": 128, "model.weights.distill": 1.0, "model.candidates": 4}
    assert actual.trials[0].value == 0.3 + 0.128
    assert actual.trials[0].intermediate_values == pytest.approx({1: 0.228, 2: 0.428, 3: 0.328})
    again = worked(place, trained([0.1]), tune__trials=5)
    assert [trial.params == actual.trials[0].params for trial in again.trials] == [True, False, False, False, False]
    assert len(worked(place, trained([0.1])).trials) == 5, "a study that has all its trials runs none"


def test_a_study_in_two_parts_draws_what_one_in_one_part_draws(place: Any) -> None:
    whole = [trial.params for trial in worked(place, trained([0.1]), tune__study="whole", tune__trials=12).trials]
    worked(place, trained([0.1]), tune__study="parts", tune__trials=5)
    parts = [trial.params for trial in worked(place, trained([0.1]), tune__trials=12).trials]
    assert parts == whole
    assert len({json.dumps(params) for params in whole}) == 12
    other = worked(place, trained([0.1]), tune__study="other", tune__seed=1, tune__trials=2).trials
    assert other[1].params != whole[1]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"tune__space": [{"key": "model.d_prime", "choices": [8, 16]}]},
            "was begun with another search space: model.candidates was {'low': 2, 'high': 6}, now nothing; ",
        ),
        ({"train__epochs": 3}, "was begun with another parameters: train.epochs was 2, now 3. Put that back"),
        ({"train__monitor": "full/hr_10"}, "another objective: train.monitor was uni99/ndcg_10, now full/hr_10"),
        ({"tune__fidelity": "full"}, "another fidelity: tune.fidelity was heads, now full"),
    ],
)
def test_another_setting_is_one_clear_error(place: Any, edit: dict[str, Any], message: str, capsys: Any) -> None:
    worked(place, trained([0.1]), tune__trials=1)
    before = [trial.params for trial in load(place.folder).trials]
    place.edit(**edit)
    params = parameters.load(place.folder / "params.yaml")
    with pytest.raises(ParamsError, match=r"study 'llm-srec' at sqlite:///.*tune\.db") as error:
        study.begin(params, {}, place.folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [trial.params for trial in load(place.folder).trials] == before


def test_another_checkpoint_is_refused(place: Any) -> None:
    params = parameters.load(place.folder / "params.yaml")
    study.begin(params, {"models/llm_srec": "a"}, place.folder)
    with pytest.raises(ParamsError, match="another inputs: models/llm_srec has another content"):
        study.begin(params, {"models/llm_srec": "b"}, place.folder)


def test_what_comes_after_training_may_change(place: Any) -> None:
    worked(place, trained([0.1]), tune__trials=1)
    assert len(worked(place, trained([0.1]), evaluate__bootstrap=200, tune__trials=2).trials) == 2


def test_a_killed_workers_trial_is_run_again_where_it_was(place: Any, capsys: Any) -> None:
    place.edit(train__epochs=30, train__patience=1000, train__evaluations_per_epoch=1, tune__trials=1)
    worker = subprocess.Popen(WORKER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not list(place.folder.glob(".resume/tune/*/state.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    output, _ = worker.communicate()
    assert [trial.state for trial in load(place.folder).trials] == [TrialState.RUNNING], output

    assert cli.main(["tune"]) == 0
    assert "going on after step" in capsys.readouterr().out
    lost, run = load(place.folder).trials
    assert (lost.state, run.state, run.system_attrs["failed_trial"]) == (TrialState.FAIL, TrialState.COMPLETE, 0)
    assert run.params == lost.params
    assert list(run.intermediate_values) == list(range(1, 31))
    assert not list(place.folder.glob(".resume/tune/*")), "what a finished trial went on from is removed"

    place.edit(tune__study="undisturbed")
    assert cli.main(["tune"]) == 0
    (undisturbed,) = optuna.load_study(
        study_name="undisturbed", storage=f"sqlite:///{place.folder}/mlruns/tune.db"
    ).trials
    assert undisturbed.intermediate_values == run.intermediate_values
    assert undisturbed.value == run.value


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_two_workers_share_a_study(place: Any, database: str, request: pytest.FixtureRequest) -> None:
    storage = None
    if database == "postgres":  # a database of its own: Optuna and MLflow both keep their version in `alembic_version`
        server = request.getfixturevalue("postgres")
        with create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CREATE DATABASE study"))
        storage = f"{server.removesuffix('postgres')}study"

    def slow(params: parameters.Params, resume: Path, check: Any) -> list[dict[str, Any]]:
        time.sleep(0.3)
        return trained([0.1])(params, resume, check)

    place.edit(tune__trials=6, tune__storage=storage)
    workers = [multiprocessing.get_context("fork").Process(target=worked, args=(place, slow)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    trials = load(place.folder, storage).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert len({json.dumps(trial.params, sort_keys=True) for trial in trials}) == 6, "no worker repeats another's draws"
    at_once = [after.datetime_start < before.datetime_complete for before, after in pairwise(trials)]
    assert any(at_once), "they ran beside each other"


def test_a_trial_that_cannot_be_run_is_failed_and_three_in_a_row_end_the_worker(place: Any) -> None:
    calls = []

    def sometimes(params: parameters.Params, resume: Path, check: Any) -> list[dict[str, Any]]:
        calls.append(params)
        if len(calls) == 2:
            raise DataError("the training diverged")
        return trained([0.1])(params, resume, check)

    actual = worked(place, sometimes)
    assert [trial.state.name for trial in actual.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert actual.trials[1].user_attrs["error"] == "the training diverged"

    def never(params: parameters.Params, resume: Path, check: Any) -> list[dict[str, Any]]:
        raise DataError("no space")

    with pytest.raises(DataError, match="3 trials in a row failed, the last one so: no space"):
        worked(place, never, tune__study="never")


def test_a_full_trial_behind_the_median_is_pruned(place: Any) -> None:
    calls = []

    def worse(params: parameters.Params, resume: Path, check: Any) -> list[dict[str, Any]]:
        calls.append(params)
        return trained([0.1, 0.2, 0.3, 0.4] if len(calls) < 6 else [0.0, 0.0, 0.0, 0.0])(params, resume, check)

    actual = worked(place, worse, tune__fidelity="full", tune__trials=6)
    assert [trial.state.name for trial in actual.trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert actual.trials[5].last_step == 2, "the first epoch's two checks are waited for"
    calls.clear()
    run_out = worked(place, worse, tune__study="heads", tune__fidelity="heads")
    assert {trial.state.name for trial in run_out.trials} == {"COMPLETE"}


def test_a_storage_that_cannot_be_used_is_one_line_without_its_password(
    place: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for url, said in {
        "postgresql://me:secret@127.0.0.1:9/none": "postgresql://me:***@127.0.0.1:9/none cannot be used",
        f"sqlite:///{place.folder}/params.yaml": "file is not a database",
        "secret": "the study's storage (not a URL) cannot be used",
        f"sqlite:///{place.folder}/missing/tune.db": "unable to open database file",
    }.items():
        monkeypatch.setenv("OPTUNA_STORAGE", url)
        assert cli.main(["tune"]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert "secret" not in error
        assert error.count("\n") == 1


def test_the_environments_storage_comes_first(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters.load(place.folder / "params.yaml")
    assert study.storage_url(params, Path("/r")) == "sqlite:////r/mlruns/tune.db"
    named = params.model_copy(update={"tune": params.tune.model_copy(update={"storage": "sqlite:///named.db"})})
    assert study.storage_url(named, Path("/r")) == "sqlite:///named.db"
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///here.db")
    assert study.storage_url(named, Path("/r")) == "sqlite:///here.db"


def test_the_values_that_ran_are_the_values_that_are_shown(place: Any) -> None:
    ran = []

    def note(params: parameters.Params, resume: Path, check: Any) -> list[dict[str, Any]]:
        ran.append(params.model.weights.distill)
        return trained([0.1])(params, resume, check)

    actual = worked(place, note)
    assert ran == [space.values(trial.params)["model.weights.distill"] for trial in actual.trials]
