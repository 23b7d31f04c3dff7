"""Ranks each user's target with one of the compared systems: `python -m stages.rank gru4rec-retrieval`."""

from pathlib import Path

import torch

from llmsrec import distributed, systems
from llmsrec.evaluation import report, slices
from llmsrec.files import write_json
from llmsrec.systems.task import Ranked, Task
from stages.common import Stage, run_item

OUT = Path("reports/ranks")


def main(stage: Stage) -> None:
    torch.use_deterministic_algorithms(True)
    task = task_of(stage)
    write(task, systems.module(task.system, task.form).rank(task), OUT)


def write(task: Task, ranked: Ranked, out: Path) -> None:
    """`out`/<system>-<form>.parquet, and its figures beside it."""
    if not distributed.is_main():
        return
    name, test = f"{task.system}-{task.form}", task.cases["test"]
    ranks = {task.system: ranked.ranks} | ranked.beside
    groups = slices.of_test(task.interactions, task.sequences, test.users, test.targets)
    described = {task.system: ranked.user_vectors} if ranked.user_vectors else {}
    evaluation = report.evaluation(ranks, groups, described)
    for split, protocols in ranked.figures.items():
        for protocol, figures in protocols.items():
            evaluation[task.system][split][protocol] |= figures
    report.write_ranks(out / f"{name}.parquet", ranks, {split: of.users for split, of in task.cases.items()})
    write_json(out / f"{name}.json", evaluation)
    for protocol, metrics in evaluation[task.system]["test"].items():
        figures = {key: value for key, value in metrics.items() if isinstance(value, float)}  # not the slices'
        print(f"{name} test/{protocol}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()), flush=True)


def task_of(stage: Stage) -> Task:
    """What the system of the stage `train@<system>-<form>` or `rank@<system>-<form>` is given."""
    system, form = systems.parse(stage.name.partition("@")[2])
    return make_task(stage, system, form, systems.folder(system, form))


def make_task(stage: Stage, system: str, form: str, folder: Path) -> Task:
    """What a system is given to work on in `folder`."""
    return Task(
        system,
        form,
        systems.settings(system, form, Path(f"systems/{system}.yaml")),
        stage.params,
        folder,
        stage.resume,
        stage.root,
        "cuda" if torch.cuda.is_available() else "cpu",
    )


if __name__ == "__main__":
    run_item(main, "rank", Path("baselines"), parallel=True)
