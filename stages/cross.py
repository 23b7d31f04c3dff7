"""Ranks other data's targets by a system that never met their items: `python -m stages.cross llm_srec-retrieval`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from llmsrec import systems
from llmsrec.systems import llm, unseen
from llmsrec.systems.task import MODELS, Task
from stages.common import Stage, run_item
from stages.rank import write

CROSS, OUT, TARGET = Path("cross"), Path("reports/cross"), Path("data/target")
TRAINED = MODELS / "llm_srec"


def main(stage: Stage) -> None:
    torch.use_deterministic_algorithms(True)
    with TemporaryDirectory() as place:
        task = task_of(stage, Path(place))
        trained = TRAINED if task.system == "llm_srec" else systems.folder(task.system, task.form)
        unseen.prepare(task, trained, MODELS)
        write(task, llm.rank(task), OUT)


def task_of(stage: Stage, place: Path = Path()) -> Task:
    """What the system of the stage `cross@<system>-<form>` is given: the other data, and folders below `place`."""
    system, _, form = stage.name.partition("@")[2].partition("-")
    settings = systems.settings(system, form, Path("systems/a_llmrec.yaml")) if system == "a_llmrec" else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder, models = place / system, place / "models"
    return Task(system, form, settings, stage.params, folder, stage.resume, stage.root, device, TARGET, models)


if __name__ == "__main__":
    run_item(main, "cross", CROSS, parallel=True)
