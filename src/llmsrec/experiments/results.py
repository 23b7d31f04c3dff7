"""What the runs of the paper's tables gave: ranks of every user, figures and curves, from the registry."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from mlflow import MlflowClient

from llmsrec import systems
from llmsrec.errors import DataError
from llmsrec.evaluation.metrics import of_users
from llmsrec.evaluation.names import OURS
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.experiments import compare
from llmsrec.experiments.runs import CROSS, MAIN, Run
from llmsrec.experiments.workspace import Workspace
from llmsrec.files import read_json
from llmsrec.registry import names, revisions

EXPERIMENT = "dvc.experiment"  # the run's tag
COMPARISON = "reports/comparison.json"


@dataclass(frozen=True)
class Measures:
    """How intervals are made, and how many negatives uni99 has."""

    bootstrap: Bootstrap
    negatives: int


class Results:
    """The runs that are asked for, each read once.

    Args:
        client: of the registry.
        workspace: the repository.
        place: a folder for what is brought from afar.
        seeds: of every run; values of several are averaged user by user.
        measures: for intervals.
    """

    def __init__(
        self, client: MlflowClient, workspace: Workspace, place: Path, seeds: list[int], measures: Measures
    ) -> None:
        self.client, self.workspace, self.place, self.seeds, self.measures = client, workspace, place, seeds, measures
        self._commits = revisions.experiments_at_head(workspace.root)
        self._sides: dict[Run, compare.Side] = {}

    def values(self, setting: str, model: str, split: str, protocol: str, metric: str) -> np.ndarray:
        """`[seeds, n]` a metric of each user.

        Args:
            model: `sasrec`, `popularity` and `tower_blend` are the main way's; others are systems by their names.

        Raises:
            DataError: see `side`; or the run is from before these ranks were kept.
        """
        of_seeds = []
        for seed in self.seeds:
            run = Run(setting, what_of(model, protocol), seed)
            side = self.side(run)
            own = OURS if what_of(model, protocol) != MAIN and model != "sasrec" else model
            assert side.ranks is not None
            if own not in side.ranks["model"]:
                raise DataError(
                    f"the run of {run.name} keeps no ranks of {own}; `dvc exp remove {run.name}`, and run it again."
                )
            of_seeds.append(of_users(side.ranks, own, split, protocol, metric))
        return np.stack(of_seeds)

    def pair(self, setting: str, model: str, protocol: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """`values` on original and on shuffled histories of test."""
        return (
            self.values(setting, model, "test", protocol, metric),
            self.values(setting, model, "test_shuffled", protocol, metric),
        )

    def slices(self, setting: str = "original") -> pl.DataFrame:
        """The groups of users, by user id."""
        frame = self.side(Run(setting, MAIN, self.seeds[0])).slices
        assert frame is not None
        return frame.sort("user_id")

    def metric(self, run: Run, name: str) -> float | None:
        """What MLflow has under a name."""
        return self.side(run).metrics.get(name)

    def curve(self, run: Run, name: str) -> list[tuple[float, float]]:
        """(step, value) of what was measured during training, such as `check/valid/uni99/ndcg_10`."""
        points = self.client.get_metric_history(self.side(run).named.run_id, name)
        return sorted((point.step, point.value) for point in points)

    def towers(self, run: Run) -> dict[str, Any]:
        """Its towers side by side, as `evaluate` wrote them (`evaluation.towers.compare`).

        Raises:
            DataError: it keeps no such report.
        """
        folder = self.place / run.name
        kept = compare.artifact(self.client, self.side(run).named, COMPARISON, folder)
        if kept is None:
            raise DataError(f"run {self.side(run).named.run_id} of {run.name} keeps no {COMPARISON}; run it again.")
        return read_json(kept)["towers"]

    def side(self, run: Run) -> compare.Side:
        """What the registry has of a run, on the same users and candidates as all others, but for those of other data.

        Raises:
            DataError: it is not there, or of other data.
        """
        if run not in self._sides:
            self._sides[run] = self._load(run)
            alike = [side for known, side in self._sides.items() if (known.setting == CROSS) == (run.setting == CROSS)]
            if why := compare.unpaired(alike[0], self._sides[run]):
                raise DataError(f"{run.name} does not belong in a table with the others: {why}; run it again.")
        return self._sides[run]

    def _load(self, run: Run) -> compare.Side:
        commit = self._commits.get(run.name)
        if commit:
            text = revisions.show(self.workspace.root, commit, run.registered)
        else:
            text = (self.workspace.root / run.registered).read_text() if self.workspace.has(run) else None
        if not text:
            raise DataError(
                f"the DVC experiment {run.name} {'ended before it was registered' if commit else 'is not there'}; "
                f"`dvc exp remove {run.name}` and `llmsrec paper run` make it anew."
            )
        run_id = json.loads(text)["run_id"]
        side = compare.load(self.client, names.Named(run.name, run_id), self.place / run.name)
        if side.ranks is None:
            raise DataError(f"run {run_id} of {run.name} keeps no {compare.RANKS}; run it again.")
        self._name(side)
        return side

    def _name(self, side: compare.Side) -> None:
        """Where all stages were cached, the run is of an earlier `dvc repro`, and knows of no experiment."""
        if not self.client.get_run(side.named.run_id).data.tags.get(EXPERIMENT):
            self.client.set_tag(side.named.run_id, EXPERIMENT, side.named.name)
            self.client.update_run(side.named.run_id, name=f"{side.title} ({side.named.name})")


@cache
def what_of(model: str, protocol: str) -> str:
    """Which training has a model's ranks: `main`, or `<system>-<form>`."""
    form = "titles" if protocol.startswith("uni19") else "retrieval"
    if model == "sasrec" and form == "titles":
        return f"{next(system for system, forms in systems.MODULES.items() if form in forms)}-{form}"
    return f"{model}-{form}" if model in systems.MODULES else MAIN
