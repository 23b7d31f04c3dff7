"""A study in MLflow: a run for the study, and a nested run for each of its trials that has ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from llmsrec.redaction import redact
from llmsrec.registry import tracking

STUDY, TRIAL, STATE = "llmsrec.study", "llmsrec.trial", "llmsrec.trial_state"
MOST = 10_000  # runs found at once
RUNNING = RunStatus.to_string(RunStatus.RUNNING)


@dataclass(frozen=True)
class Trial:
    """What a nested run is told.

    Attributes:
        name: what people see.
        state: complete, pruned or fail.
        began, ended: ms since epoch.
        params: params.yaml's names -> values, flat.
        curve: number of a check -> the objective there.
        scores: metrics at the best check.
    """

    number: int
    name: str
    state: str
    began: int
    ended: int
    params: dict[str, Any]
    curve: dict[int, float]
    scores: dict[str, float]


@dataclass(frozen=True)
class Study:
    """What the parent run is told.

    Attributes:
        key: one study has it, wherever its workers run.
        name: what people see.
        objective: the metric's name.
        params: what is the same in all trials, flat.
        trials: those that have ended.
    """

    key: str
    name: str
    objective: str
    params: dict[str, Any]
    trials: list[Trial]


def log(root: Path, experiment: str, study: Study, files: list[Path]) -> str:
    """Bring MLflow up to date with the study; returns the parent run's id. What is there already is left alone.

    Raises:
        DataError: MLflow refuses.
    """
    with tracking.connected(root) as client:
        place = tracking.experiment(client, f"{experiment}-tuning", root)
        parent = _parent(client, place, study)
        runs = client.search_runs([place], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'", max_results=MOST)
        logged = {int(run.data.tags[TRIAL]): run for run in runs}
        for trial in study.trials:
            run = logged.get(trial.number)
            if run is None or run.info.status == RUNNING:
                _child(client, place, parent, study, trial, run)
        complete = [trial for trial in study.trials if trial.state == "complete"]
        if complete:
            best = max(complete, key=lambda trial: trial.scores[study.objective])
            client.log_metric(parent, study.objective, best.scores[study.objective], step=len(study.trials))
            client.set_tag(parent, "llmsrec.best_trial", str(best.number))
        for path in files:
            client.log_artifact(parent, str(path))
        client.set_terminated(parent)
        return parent


def _parent(client: MlflowClient, place: str, study: Study) -> str:
    runs = client.search_runs([place], f"tags.`{STUDY}` = '{study.key}'")
    if runs:
        return str(runs[0].info.run_id)
    run = client.create_run(place, tags={STUDY: study.key}, run_name=f"study {study.name}")
    client.log_batch(run.info.run_id, params=_params(study.params))
    return str(run.info.run_id)


def _child(client: MlflowClient, place: str, parent: str, study: Study, trial: Trial, run: Run | None) -> None:
    """Make the trial's run, or complete one that was cut short: equal params and points are kept once."""
    if run is None:
        tags = {MLFLOW_PARENT_RUN_ID: parent, TRIAL: str(trial.number)}
        run = client.create_run(place, start_time=trial.began, tags=tags, run_name=trial.name)
    metrics = [Metric(name, value, trial.ended, 0) for name, value in trial.scores.items()]
    metrics += [Metric(f"check/{study.objective}", value, trial.ended, at) for at, value in trial.curve.items()]
    run_id = run.info.run_id
    client.log_batch(run_id, metrics=metrics, params=_params(trial.params), tags=[RunTag(STATE, trial.state)])
    client.set_terminated(run_id, "FAILED" if trial.state == "fail" else "FINISHED", trial.ended)


def _params(values: dict[str, Any]) -> list[Param]:
    return [Param(key, redact(str(value))) for key, value in values.items()]
