"""The paper's Table 7 as DVC experiments: what they are called, which of them are there, and what came of them."""

import json
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from mlflow import MlflowClient

from llmsrec import params as parameters
from llmsrec.errors import DataError
from llmsrec.evaluation import ablation
from llmsrec.evaluation.tables import Table
from llmsrec.experiments import compare
from llmsrec.registry import names, revisions, tracking

LOSSES = {
    "a": {"model.distill": "false", "model.uniform": "false"},
    "b": {"model.distill": "true", "model.uniform": "false"},
    "c": {"model.distill": "true", "model.uniform": "true"},
}
ORDERS = {"original": "false", "shuffled": "true"}  # of the training sequences: split.shuffle_train
EXPERIMENT = "dvc.experiment"  # the run's tag


@dataclass(frozen=True)
class Experiment:
    """One training: a row of Table 7, the order of its training sequences, a seed."""

    row: str
    order: str
    seed: int

    @property
    def name(self) -> str:
        return f"table7-{self.row}-{self.order}-s{self.seed}"

    def overrides(self) -> list[str]:
        """Arguments of `dvc exp run`; all that tells the experiments apart is said, whatever is committed."""
        values = {**LOSSES[self.row], "split.shuffle_train": ORDERS[self.order], "train.seed": self.seed}
        return [part for key, value in values.items() for part in ("-S", f"{key}={value}")]


def experiments(rows: list[str], orders: list[str], seeds: list[int]) -> list[Experiment]:
    """Those of Table 7 that are asked for; what needs the same teacher is together."""
    return [Experiment(row, order, seed) for seed, order, row in product(seeds, orders, rows)]


def tables(root: Path, wanted: list[Experiment]) -> list[Table]:
    """Table 7 from the runs of experiments that are all there, whose MLflow runs get the experiments' names.

    Raises:
        DataError: a run keeps no ranks, or they are not all of the same users and candidates.
    """
    params = parameters.load(root / "params.yaml")
    commits = revisions.experiments_here(root)
    ranks: ablation.Ranks = {}
    sides = []
    with tracking.existing(root, "Run this again") as client, tempfile.TemporaryDirectory() as place:
        for experiment in wanted:
            text = revisions.show(root, commits[experiment.name], names.REGISTERED)
            if text is None:
                raise DataError(
                    f"the DVC experiment {experiment.name} ended before it was registered; "
                    f"`dvc exp remove {experiment.name}` and run this again."
                )
            run_id = json.loads(text)["run_id"]
            side = compare.load(client, names.Found(experiment.name, run_id), Path(place) / experiment.name)
            if side.ranks is None:
                raise DataError(f"run {run_id} of {experiment.name} keeps no {compare.RANKS}; run it again.")
            ranks.setdefault((experiment.row, experiment.order), []).append(side.ranks)
            sides.append(side)
            _name(client, side)
    why = [why for side in sides[1:] if (why := compare.unpaired(sides[0], side))]
    if why:
        raise DataError(f"the experiments do not belong in one table: {why[0]}; remove the older ones and run again.")
    return ablation.tables(ranks, params.evaluate.bootstrap, params.evaluate.seed)


def _name(client: MlflowClient, side: compare.Side) -> None:
    """Where all stages were cached, the run is of an earlier `dvc repro`, and knows of no experiment."""
    if not client.get_run(side.found.run_id).data.tags.get(EXPERIMENT):
        client.set_tag(side.found.run_id, EXPERIMENT, side.found.name)
        client.update_run(side.found.run_id, name=f"{side.title} ({side.found.name})")
