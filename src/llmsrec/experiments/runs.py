"""The trainings that the paper's tables and claims are made of: settings, what is trained under them, and seeds.

A run is one DVC experiment, shared by all tables that need it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from llmsrec import systems
from llmsrec.presets import PAPER

MAIN = "main"  # LLM-SRec, its teacher and popularity: dvc.yaml
CROSS = "cross"  # the setting of what is asked about other data: cross/dvc.yaml
# What the settings differ in is said in every run, whatever is committed.
ORIGINAL: dict[str, Any] = {
    "split.shuffle_train": False,
    "model.distill": True,
    "model.uniform": True,
    "model.distill_loss": "mse",
    "model.user_representation": False,
    "train.targets": "all",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "original": {},
    "shuffled": {"split.shuffle_train": True},  # paper, 2.3.1
    "retrieval-only": {"model.distill": False, "model.uniform": False},  # Table 7 (a)
    "retrieval-only-shuffled": {
        "model.distill": False, "model.uniform": False, "split.shuffle_train": True,
    },
    "no-uniform": {"model.uniform": False},  # Table 7 (b), Table 13
    "no-uniform-shuffled": {"model.uniform": False, "split.shuffle_train": True},
    "user-representation": {"model.user_representation": True},  # Table 11
    "contrastive": {"model.distill_loss": "contrastive"},  # Table 12
    "last-target": {"train.targets": "last"},  # Figure 8
    "last-target-shuffled": {"train.targets": "last", "split.shuffle_train": True},
    "small-backbone": {"backbone.model": "embedded", "backbone.embedded.hidden_size": 64},  # Figure 5
    "large-backbone": {"backbone.model": "embedded", "backbone.embedded.hidden_size": 256},
    "bce-teacher": {key: value for key, value in PAPER.items() if key.startswith("sasrec.")},
    "embedded-backbone": {"backbone.model": "embedded", "backbone.dtype": "float32"},
    "random-backbone": {"backbone.model": ".cache/random-backbone"},  # benchmarks/random_backbone.py
    "text-teacher": {"sasrec.items": "sum"},
    CROSS: {},  # Table 8: trained as `original`
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        setting: a key of `SETTINGS`.
        what: `main`, or `<system>-<form>`.
        seed: of its training, counted from the files' (`values`).
    """

    setting: str
    what: str = MAIN
    seed: int = 0

    @property
    def name(self) -> str:
        """The DVC experiment's."""
        return f"paper-{self.setting}-{self.what}-s{self.seed}"

    def values(self, committed: dict[str, Any]) -> dict[str, Any]:
        """All that tells this run from the others, by keys of params.yaml and `systems/<system>.yaml:<key>`.

        Args:
            committed: what these files hold now (`workspace.values`). Its seeds are those of the runs with seed 0.
        """
        keys = ("train.seed", *self._own_seed())
        return {**ORIGINAL, **SETTINGS[self.setting], **{key: committed[key] + self.seed for key in keys}}

    def overrides(self, committed: dict[str, Any]) -> list[str]:
        """Arguments of `dvc exp run`."""
        pairs = self.values(committed).items()
        return [part for key, value in pairs for part in ("-S", f"{key}={json.dumps(value).strip(chr(34))}")]

    def targets(self) -> list[str]:
        """What DVC brings up to date."""
        if self.setting == CROSS:
            return [f"cross/dvc.yaml:log@{self._trained}"]
        return [] if self.what == MAIN else [f"baselines/dvc.yaml:log@{self.what}"]

    @property
    def registered(self) -> str:
        """The file of the experiment's commit that names its MLflow run."""
        if self.setting == CROSS:
            return f"metrics/cross/{self._trained}.json"
        return "metrics/registered.json" if self.what == MAIN else f"metrics/systems/{self.what}.json"

    @property
    def _trained(self) -> str:
        """Its `<system>-<form>`, LLM-SRec's too."""
        return "llm_srec-retrieval" if self.what == MAIN else self.what

    def _own_seed(self) -> list[str]:
        """The key of its seed, where it is not trained by params.yaml's `train`."""
        if self.what == MAIN:
            return []
        system, form = systems.parse(self.what)
        keys = {"cf": f"systems/{system}.yaml:seed", "recformer": f"systems/{system}.yaml:seed", "ctrl": "sasrec.seed"}
        return [keys[module]] if (module := systems.MODULES[system][form]) in keys else []


def of(settings: Iterable[str], what: Iterable[str], seeds: Iterable[int]) -> list[Run]:
    """All of them; what has a setting in common, and so data and teacher, comes together."""
    return [Run(setting, system, seed) for seed, setting, system in product(seeds, settings, what)]
