"""An Optuna study that several workers share: begun once, gone on with anywhere, its killed trials run again.

The storage is a relational database, as heartbeats need one: a worker that is killed leaves a trial that looks alive,
until its heartbeat is two intervals old; then the next worker that asks for work fails it and queues it anew.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from llmsrec.errors import DataError, LLMSRecError, ParamsError
from llmsrec.params import Params
from llmsrec.redaction import redact
from llmsrec.registry.address import sqlite_url
from llmsrec.tuning import space
from llmsrec.tuning.trials import Curve, Trainer

ENVIRONMENT = "OPTUNA_STORAGE"  # as Optuna's own command line reads it
RETRIES = 3
# s that one worker waits for another's write, or for a database to answer, by the names of the drivers' arguments
PATIENCE = {"sqlite": {"timeout": 60}, "postgresql": {"connect_timeout": 6}, "mysql": {"connect_timeout": 6}}
STARTUP_TRIALS = 5  # before the pruner compares
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
FAILURES = 3  # trials in a row that end a worker
POLL = 5  # s between looks at trials that others run
SETTING = "setting"  # the study's attribute: what it was begun with
FOLDER = "folder"  # a trial's attribute: where it goes on


def storage_url(params: Params, root: Path) -> str:
    """OPTUNA_STORAGE, tune.storage, or mlruns/tune.db of the repository, in this order."""
    return os.environ.get(ENVIRONMENT) or params.tune.storage or sqlite_url(root / "mlruns/tune.db")


def setting(params: Params, inputs: dict[str, str]) -> dict[str, Any]:
    """What makes two trials comparable; all trials of a study have it in common.

    Args:
        inputs: digests of the files that a trial reads.
    """
    return {
        "search space": {one.key: one.model_dump(exclude={"key"}) for one in params.tune.space},
        "fidelity": {"tune.fidelity": params.tune.fidelity},
        "objective": {"train.monitor": params.train.monitor},
        "parameters": space.deciding(params),
        "inputs": inputs,
    }


def begin(params: Params, inputs: dict[str, str], root: Path) -> optuna.Study:
    """The study that params.yaml names, made if it is new; its first trial is the paper's setting.

    Raises:
        ParamsError: the study was begun with something else, or its storage cannot be used.
    """
    now = setting(params, inputs)
    (root / "mlruns").mkdir(parents=True, exist_ok=True)
    with (root / "mlruns/.tune.lock").open("w") as lock, _quietly():
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that begin at once would make the same tables and queue two first trials
        study = optuna.create_study(
            storage=_storage(params, root),
            study_name=params.tune.study,
            direction="maximize",
            load_if_exists=True,
            pruner=_pruner(params),
        )
        if SETTING not in study.user_attrs:
            first = space.paper(params.tune.space)
            if first is None:
                print("tune.space leaves out one of the paper's values, so they are not the first trial", flush=True)
            else:
                study.enqueue_trial(first, skip_if_exists=True)
            study.set_user_attr(SETTING, now)
    refuse_change(study, now, root, params)
    return study


def find(params: Params, root: Path) -> optuna.Study:
    """The study that params.yaml names.

    Raises:
        ParamsError: there is none.
    """
    url = storage_url(params, root)
    name = params.tune.study
    missing = ParamsError(f"there is no study {name!r} at {redact(url)}; begin it with `llmsrec tune`.")
    path = make_url(url)
    if path.get_backend_name() == "sqlite" and path.database and not Path(path.database).exists():
        raise missing  # opening it would make an empty one
    try:
        study = optuna.load_study(storage=_storage(params, root), study_name=name)
    except KeyError as error:
        raise missing from error
    if SETTING not in study.user_attrs:
        raise missing
    return study


def differences(study: optuna.Study, now: dict[str, Any]) -> dict[str, list[str]]:
    """Part of the setting -> a line for each of its keys that was another when the study was begun."""
    begun = study.user_attrs[SETTING]
    changed: dict[str, list[str]] = {}
    for part in now:
        for key in sorted(begun[part].keys() | now[part].keys()):
            was, is_now = begun[part].get(key, "nothing"), now[part].get(key, "nothing")
            if was != is_now:
                text = f"{key} has another content" if part == "inputs" else f"{key} was {was}, now {is_now}"
                changed.setdefault(part, []).append(text)
    return changed


def refuse_change(study: optuna.Study, now: dict[str, Any], root: Path, params: Params) -> None:
    """Raise ParamsError unless the study was begun with `now`."""
    for part, lines in differences(study, now).items():
        raise ParamsError(
            f"study {study.study_name!r} at {redact(storage_url(params, root))} was begun with another {part}: "
            f"{'; '.join(lines)}. Put that back, or begin a new study under another name (tune.study)."
        )


class Worker:
    """One process's part in a study.

    Args:
        train: what trains a configuration.
        resume: folder in which a trial that was cut short goes on, if it is retried on the same machine.
        finished: called after each trial.
    """

    def __init__(
        self, study: optuna.Study, params: Params, train: Trainer, resume: Path, finished: Callable[[], Any]
    ) -> None:
        self.study, self.params, self.train = study, params, train
        self.resume, self.finished = resume, finished
        self.failures: list[str] = []
        study.sampler = Seeded(params.tune.seed)

    def work(self) -> None:
        """Run trials beside all other workers until the study has `tune.trials`; the others' last are waited for.

        Raises:
            DataError: `FAILURES` trials in a row could not be run.
        """
        self.resume.mkdir(parents=True, exist_ok=True)
        with (self.resume.parent / "tune.lock").open("w") as self._turn:
            while (free := self._free()) is not None:
                if not free:
                    time.sleep(min(POLL, self.params.tune.heartbeat))
                    continue
                with _quietly():
                    self.study.optimize(self.trial, n_trials=1, catch=LLMSRecError)
                self.finished()
                if len(self.failures) == FAILURES:
                    raise DataError(f"{FAILURES} trials in a row failed, the last one so: {self.failures[-1]}")

    def _free(self) -> int | None:
        """How many trials nobody runs yet; None once all are done. The trials of killed workers are queued anew.

        Where there is one, it is this worker's turn until its trial begins: of all workers here, none takes it too.
        """
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        with _quietly():
            optuna.storages.fail_stale_trials(self.study)
        states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
        left = self.params.tune.trials - sum(state in FINISHED for state in states)
        free = max(0, left - states.count(TrialState.RUNNING)) if left > 0 else None
        if not free:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        return free

    def trial(self, trial: optuna.Trial) -> float:
        """Train one configuration; returns the objective at its best check."""
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        values = space.suggest(trial, self.params.tune.space)
        params = space.replace(self.params, values)
        metric = f"valid/{params.train.monitor}"
        # A retry inherits the attributes of the trial that was cut short, and so the folder to go on in.
        folder = trial.user_attrs.get(FOLDER)
        if folder is None:
            folder = f"{trial.number}-{digest([self.study.user_attrs[SETTING], values])}"
            trial.set_user_attr(FOLDER, folder)
        print(f"trial {trial.number}: {space.text(values)}", flush=True)
        began, reported = time.monotonic(), set[int]()

        def check(curve: Curve) -> None:
            for number, entry in enumerate(curve, start=1):
                if number not in reported:
                    trial.report(entry[metric], number)
                    reported.add(number)
            if trial.should_prune():
                raise optuna.TrialPruned(f"after {len(curve)} checks")

        try:
            curve = self.train(params, self.resume / folder, check)
            best = max(curve, key=lambda entry: entry[metric])
        except LLMSRecError as error:
            self.failures.append(str(error))
            trial.set_user_attr("error", str(error))
            print(f"trial {trial.number} failed: {error}", flush=True)
            raise
        finally:
            trial.set_user_attr("seconds", round(time.monotonic() - began, 1))
            shutil.rmtree(self.resume / folder, ignore_errors=True)
        self.failures.clear()
        trial.set_user_attr("scores", {key: value for key, value in best.items() if key.startswith("valid/")})
        print(f"trial {trial.number}: {metric} {best[metric]:.4f}, {time.monotonic() - began:.0f} s", flush=True)
        return float(best[metric])


class Seeded(TPESampler):
    """TPE whose draws for a trial depend on the seed, the trial's number and the trials before it alone.

    With a generator for each worker, all workers of one seed would draw the same points, and a worker that goes on
    would draw again what was drawn before.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.seed = seed

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        TPESampler.__init__(self, seed=int(np.random.default_rng([self.seed, trial.number]).integers(2**31)))
        super().before_trial(study, trial)


def _storage(params: Params, root: Path) -> RDBStorage:
    url = storage_url(params, root)
    try:
        patience = PATIENCE.get(make_url(url).get_backend_name())
        with _quietly():
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": patience} if patience else None,
                heartbeat_interval=params.tune.heartbeat,
                grace_period=2 * params.tune.heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
            )
    except (SQLAlchemyError, ImportError, OSError, RuntimeError) as error:  # the last: tables of another program
        reason = str(error).splitlines()[0]
        where = redact(url) if "://" in url else "(not a URL)"  # it may be the password alone
        raise ParamsError(
            f"the study's storage {where} cannot be used: {reason} Set tune.storage or {ENVIRONMENT} to the URL "
            "of a database that runs and is not MLflow's, and install its driver."
        ) from error


def _pruner(params: Params) -> optuna.pruners.BasePruner:
    """Trials in full are given up where they fall behind the median; heads take seconds and are run to their end."""
    if params.tune.fidelity == "heads":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=params.train.evaluations_per_epoch)


def digest(value: Any) -> str:
    """A short name for plain values: equal where they are equal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's own lines on what works, and its notes that heartbeats are experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
    optuna.logging.set_verbosity(before)
