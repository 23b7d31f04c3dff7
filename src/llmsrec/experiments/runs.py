"""The trainings that the paper's tables are made of: settings, what is trained under them, and seeds.

A run is one DVC experiment, shared by all tables that need it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from llmsrec import systems

MAIN = "main"  # LLM-SRec, its teacher and popularity: dvc.yaml
# What the settings differ in is said in every run, whatever is committed.
ORIGINAL = {
    "split.shuffle_train": "false",
    "model.distill": "true",
    "model.uniform": "true",
    "model.distill_loss": "mse",
    "model.user_representation": "false",
    "train.targets": "all",
}
SETTINGS: dict[str, dict[str, str]] = {
    "original": {},
    "shuffled": {"split.shuffle_train": "true"},  # paper, 2.3.1
    "retrieval-only": {"model.distill": "false", "model.uniform": "false"},  # Table 7 (a)
    "retrieval-only-shuffled": {
        "model.distill": "false", "model.uniform": "false", "split.shuffle_train": "true",
    },
    "no-uniform": {"model.uniform": "false"},  # Table 7 (b), Table 13
    "no-uniform-shuffled": {"model.uniform": "false", "split.shuffle_train": "true"},
    "user-representation": {"model.user_representation": "true"},  # Table 11
    "contrastive": {"model.distill_loss": "contrastive"},  # Table 12
    "last-target": {"train.targets": "last"},  # Figure 8
    "last-target-shuffled": {"train.targets": "last", "split.shuffle_train": "true"},
    "small-backbone": {"backbone.model": "embedded", "backbone.embedded.hidden_size": "64"},  # Figure 5
    "large-backbone": {"backbone.model": "embedded", "backbone.embedded.hidden_size": "256"},
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        setting: a key of `SETTINGS`.
        what: `main`, or `<system>-<form>`.
        seed: of its training.
    """

    setting: str
    what: str = MAIN
    seed: int = 0

    @property
    def name(self) -> str:
        """The DVC experiment's."""
        return f"paper-{self.setting}-{self.what}-s{self.seed}"

    def overrides(self) -> list[str]:
        """Arguments of `dvc exp run`."""
        values = {**ORIGINAL, **SETTINGS[self.setting], "train.seed": str(self.seed)}
        own = [f"systems/{self.what.partition('-')[0]}.yaml:seed={self.seed}"] if self._has_its_seed() else []
        return [part for pair in (*(f"{k}={v}" for k, v in values.items()), *own) for part in ("-S", pair)]

    def targets(self) -> list[str]:
        """What DVC brings up to date."""
        return [] if self.what == MAIN else [f"baselines/dvc.yaml:log@{self.what}"]

    @property
    def registered(self) -> str:
        """The file of the experiment's commit that names its MLflow run."""
        return "metrics/registered.json" if self.what == MAIN else f"metrics/systems/{self.what}.json"

    def _has_its_seed(self) -> bool:
        """Whether it is trained by a schedule of its own, not by params.yaml's `train`."""
        if self.what == MAIN:
            return False
        system, form = systems.parse(self.what)
        return systems.MODULES[system][form] in ("cf", "ctrl", "recformer")


def of(settings: Iterable[str], what: Iterable[str], seeds: Iterable[int]) -> list[Run]:
    """All of them; what has a setting in common, and so data and teacher, comes together."""
    return [Run(setting, system, seed) for seed, setting, system in product(seeds, settings, what)]
