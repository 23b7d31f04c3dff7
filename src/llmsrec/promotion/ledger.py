"""The decisions on a model, one after the other, none ever changed: who moved which alias, when and why.

They are kept in one MLflow run of an experiment of their own, so they outlive this repository and are the same for
all who share a server. Decision n is the run's parameter `000n`, and its record an artifact. MLflow lets a parameter
be written once and refuses another value, also from another machine at the same instant: so writing `000n` is what
decides between two who want to move aliases at once. The outcome is a second parameter, `000n.outcome`; a decision
without one was cut short, and says itself what the aliases and the version's tags were before.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from llmsrec import params as parameters
from llmsrec.errors import RequestError
from llmsrec.redaction import redact
from llmsrec.registry import tracking, versions

LEDGER = "llmsrec.decisions"  # the run's tag: the model that it is about
Aliases = dict[str, int | None]


@dataclass(frozen=True)
class Decision:
    """A line of the ledger.

    Attributes:
        number: 1 is the first.
        action: promote or rollback.
        version: that `alias` was to be moved to.
        before, after: alias -> version, of the aliases that it moves.
        by, at: who, and when (ISO 8601, UTC).
        reason: given with `--reason`.
        broken: the rules that did not hold; only with `--force`.
        token: makes each attempt a value of its own.
        outcome: done; undone (it failed and the aliases are as they were); None while it is being made.
        tags_before, tags_after: the version's tags that it writes; None for one that was not there.
    """

    number: int
    action: str
    version: int
    alias: str
    before: Aliases
    after: Aliases
    by: str
    at: str
    reason: str
    broken: list[str]
    token: str
    outcome: str | None = None
    tags_before: dict[str, str | None] = field(default_factory=dict)  # the first decisions of a ledger may have none
    tags_after: dict[str, str | None] = field(default_factory=dict)

    def line(self) -> str:
        """One line of `llmsrec history`."""
        was = self.before[self.alias]
        moved = f"{self.alias}: {'none' if was is None else was} -> {self.version}"
        forced = f"  forced against: {', '.join(self.broken)}" if self.broken else ""
        why = f"  {self.reason!r}" if self.reason else ""
        outcome = self.outcome or "unfinished"
        return f"{self.number:>4}  {self.at}  {self.action:<8}  {moved:<22}  {outcome:<10}  {self.by}{forced}{why}"


class Ledger:
    """The decisions on one model."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self.run_id = client, run_id

    def decisions(self) -> list[Decision]:
        """All of them, oldest first."""
        params = self._client.get_run(self.run_id).data.params
        return [
            Decision(number=int(key), outcome=params.get(f"{key}.outcome"), **json.loads(value))
            for key, value in sorted(params.items())
            if key.isdigit()
        ]

    def claim(self, decision: Decision) -> None:
        """Be decision `number`.

        Raises:
            RequestError: somebody else is.
        """
        plain = asdict(decision)
        number = plain.pop("number")
        plain.pop("outcome")
        try:
            self._client.log_param(self.run_id, f"{number:04}", redact(json.dumps(plain, sort_keys=True)))
        except MlflowException as error:
            taken = next((other for other in self.decisions() if other.number == number), None)
            if taken is None or taken.token == decision.token:
                raise
            raise RequestError(
                f"{taken.by} made decision {number} at the same time ({taken.action} of version {taken.version} to "
                f"{taken.alias}); nothing of yours was done. Look at `llmsrec history` and run the command again."
            ) from error

    def close(self, number: int, outcome: str) -> str:
        """Say what came of a decision; it is said once. Returns what was said first, perhaps by somebody else."""
        key = f"{number:04}.outcome"
        try:
            self._client.log_param(self.run_id, key, outcome)
        except MlflowException:
            said: str | None = self._client.get_run(self.run_id).data.params.get(key)
            if said is None:
                raise
            return said
        return outcome

    def keep(self, number: int, record: dict[str, Any], text: str) -> None:
        """Store a decision's record, as JSON and as Markdown."""
        plain = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        self._client.log_text(self.run_id, redact(plain), f"decisions/{number:04}.json")
        self._client.log_text(self.run_id, redact(text), f"decisions/{number:04}.md")

    def record(self, number: int) -> str:
        """The Markdown of a decision."""
        try:
            return mlflow.artifacts.load_text(f"runs:/{self.run_id}/decisions/{number:04}.md")
        except (MlflowException, OSError) as error:
            raise RequestError(f"there is no record of decision {number}; `llmsrec history` lists them.") from error


def existing_ledger(client: MlflowClient, model: str) -> Ledger | None:
    """The decisions on `model`, or None if there were none yet."""
    experiment = client.get_experiment_by_name(name(model))
    if experiment is None:
        return None
    runs: list[Run] = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{LEDGER}` = '{model}'",
        order_by=["attributes.start_time", "attributes.run_id"],
    )
    return Ledger(client, runs[0].info.run_id) if runs else None


def open_ledger(client: MlflowClient, model: str, root: Path) -> Ledger:
    """The same, begun if it is missing."""
    with tracking.locked(root):
        ledger = existing_ledger(client, model)
        if ledger is None:
            place = tracking.experiment(client, name(model), root)
            run = client.create_run(place, tags={LEDGER: model}, run_name=name(model))
            client.set_terminated(run.info.run_id)  # a run that has ended takes parameters too, and none seems at work
            ledger = existing_ledger(client, model)
    assert ledger is not None
    return ledger


def show(root: Path, what: str | None, as_json: bool, model: str | None = None) -> str:
    """The list of decisions, one a line or as JSON; or the record of one.

    Args:
        what: a decision's number; or a version (`shop/5`, `staging`), for the decisions on it alone.
        model: a registered model, or a version of it as in `what`; without it `registry.model`.

    Raises:
        RequestError: there is no such decision or version.
        DataError: no registry.
    """
    number = int(what) if what and re.fullmatch(r"\d{1,9}", what) else None
    default = parameters.load(root / "params.yaml").registry.model
    of_one = what is not None and number is None
    model, which = versions.of(str(what), model, default) if of_one else versions.of_model(model or default)
    with tracking.existing(root, "Run the command again") as client:
        ledger = existing_ledger(client, model)
        version = int(versions.find(client, model, which).version) if which and number is None else None
        if number is not None:
            if ledger is None:
                raise RequestError(f"there is no record of decision {number}: nothing was decided yet.")
            return ledger.record(number).rstrip()
        made = ledger.decisions() if ledger else []
        decisions = [decision for decision in made if version in (None, decision.version)]
    if as_json:
        return json.dumps([asdict(decision) for decision in decisions], indent=2)
    return (
        "\n".join(decision.line() for decision in decisions)
        or f"no decisions on {model}{f' version {version}' if version else ''} yet"
    )


def name(model: str) -> str:
    """Of the experiment and of its one run."""
    return f"{model} decisions"
