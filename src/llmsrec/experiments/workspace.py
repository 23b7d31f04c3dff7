"""What `dvc repro baselines/dvc.yaml` left in the repository: where its values are those of a run, it is that run."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmsrec import yaml_file
from llmsrec.experiments.dvc import dvc
from llmsrec.experiments.runs import CROSS, MAIN, Run
from llmsrec.registry.record import flatten

SYSTEMS, OTHER_DATA = "baselines/dvc.yaml", "cross/dvc.yaml"


@dataclass(frozen=True)
class Workspace:
    """The repository as it is checked out.

    Attributes:
        root: it, and where commands run.
    """

    root: Path

    @cached_property
    def values(self) -> dict[str, Any]:
        """What params.yaml holds, flat, and each systems/<system>.yaml, as `systems/<system>.yaml:<key>`."""
        files = {"": self.root / "params.yaml"}
        files |= {f"systems/{path.name}:": path for path in (self.root / "systems").glob("*.yaml")}
        read = {prefix: flatten(yaml_file.read(path)) for prefix, path in files.items()}
        return {f"{prefix}{key}": value for prefix, flat in read.items() for key, value in flat.items()}

    def has(self, run: Run) -> bool:
        """Whether it was trained, ranked and logged here under its values, and nothing has changed since."""
        if run.what == MAIN or not (self.root / run.registered).is_file():
            return False
        if any(self.values.get(key) != value for key, value in run.values(self.values).items()):
            return False
        own = f"{SYSTEMS}:{{}}@{run.what}".format
        if run.setting == CROSS:
            asked = f"{OTHER_DATA}:{{}}@{run.what}".format
            return own("train") not in self._changed and not {asked("cross"), asked("log")} & {*self._changed_of_others}
        return not {own("train"), own("rank"), own("log")} & {*self._changed}

    @cached_property
    def _changed(self) -> dict[str, Any]:
        """Stage -> what DVC says has changed of it."""
        return json.loads(dvc("status", "--json", SYSTEMS))

    @cached_property
    def _changed_of_others(self) -> dict[str, Any]:
        """The same of what is asked about other data."""
        return json.loads(dvc("status", "--json", OTHER_DATA))
