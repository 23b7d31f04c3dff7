"""What a system trains before either of its forms: `python -m stages.stage1 a_llmrec` -> models/a_llmrec-stage1/."""

from pathlib import Path

import torch

from llmsrec.files import write_json
from llmsrec.systems.a_llmrec import train_stage1
from stages.common import Stage, run_item
from stages.rank import make_task


def main(stage: Stage) -> None:
    torch.use_deterministic_algorithms(True)
    system = stage.name.partition("@")[2]
    task = make_task(stage, system, "retrieval", Path(f"models/{system}-stage1"))
    task.folder.mkdir(parents=True, exist_ok=True)
    write_json(task.folder / "curve.json", train_stage1(task))


if __name__ == "__main__":
    run_item(main, "stage1", Path("baselines"))
