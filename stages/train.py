"""Trains one of the systems that LLM-SRec is compared with: `python -m stages.train gru4rec-retrieval`."""

from pathlib import Path

import torch

from llmsrec import distributed, systems
from llmsrec.files import write_json
from stages.common import Stage, run_item
from stages.rank import task_of


def main(stage: Stage) -> None:
    torch.use_deterministic_algorithms(True)
    task = task_of(stage)
    task.folder.mkdir(parents=True, exist_ok=True)
    curve = systems.module(task.system, task.form).train(task)
    if distributed.is_main():
        write_json(task.folder / "curve.json", curve)


if __name__ == "__main__":
    run_item(main, "train", Path("baselines"), parallel=True)
