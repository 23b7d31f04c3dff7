"""One of the compared systems as an MLflow run of LLM-SRec's experiment: `python -m stages.log gru4rec-retrieval`."""

import hashlib
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmsrec import params as parameters
from llmsrec.evaluation import report, slices
from llmsrec.evaluation.names import MODELS
from llmsrec.files import read_json, sha256, write_json
from llmsrec.registry import record, revisions, tracking
from llmsrec.systems.task import Task
from stages.common import Stage, durations, load, run_item
from stages.rank import OUT, task_of

METRICS, BASELINES = Path("metrics/systems"), Path("baselines")
PAIRED = (Path("filtered/interactions.parquet"), Path("split/candidates.parquet"))
EVERYWHERE = ("data.", "sample.", "split.")


def main(stage: Stage) -> None:
    name = stage.name.partition("@")[2]
    known: dict[Path, str] = {}
    both = f"train@{name}", f"rank@{name}"
    training, ranking = (load(which, BASELINES, known) for which in both)
    task, params = task_of(ranking), parameters.load(Path("params.yaml"))
    keys = tuple(f"{key}." for key in vars(training.params) if key not in ("data", "split"))
    used = {key: value for key, value in record.used(params).items() if key.startswith((*EVERYWHERE, *keys))}
    own = {f"{task.system}.{key}": value for key, value in record.flatten(task.settings.model_dump()).items()}
    log(
        stage,
        task,
        OUT,
        METRICS,
        digest=training.digest,
        name=f"{MODELS[task.system]}, {task.form} on {params.data.category}",
        params=used | own,
        curve=[{"step": row["epoch"]} | row for row in read_json(task.folder / "curve.json")],
        tags={record.FORM: task.form, "data.category": params.data.category},
        files=[Path("params.yaml"), Path(f"systems/{task.system}.yaml")],
        seconds=durations(*both, folder=BASELINES, known=known),
    )


def log(
    stage: Stage,
    task: Task,
    ranked: Path,
    metrics: Path,
    *,
    digest: str,
    tags: dict[str, str],
    files: list[Path],
    **said: Any,
) -> None:
    """Log a run of a system's ranks, and name it in `metrics`/<system>-<form>.json.

    Args:
        task: the data that it was ranked on.
        ranked: the folder of its ranks and figures.
        digest: of what it was trained by.
        tags, files: of the run, beside those that every such run has.
        said: more of `record.Record`.
    """
    name = f"{task.system}-{task.form}"
    paths = ranked / f"{name}.parquet", ranked / f"{name}.json"
    test, evaluation = task.cases["test"], read_json(paths[1])
    manifests = {part: task.data / part / "manifest.json" for part in ("raw", "filtered", "split")}
    identity = [digest, *map(sha256, paths)]
    with TemporaryDirectory() as place:
        ranks, groups = Path(place) / "ranks.parquet", Path(place) / "slices.parquet"
        shutil.copyfile(paths[0], ranks)
        of_test = slices.of_test(task.interactions, task.sequences, test.users, test.targets)
        report.write_slices(groups, of_test, test.users)
        made = record.Record(
            digest=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
            evaluation=evaluation,
            data={part: sha256(path) for part, path in manifests.items()},
            tags={record.SYSTEM: task.system, **tags}
            | record.paired({path.name: sha256(task.data / path) for path in PAIRED})
            | revisions.source(stage.root, None),
            files={
                "": files,
                "reports": [ranks, groups],
                **{f"data/{part}": [path] for part, path in manifests.items()},
            },
            model=task.system,
            **said,
        )
        with tracking.connected(stage.root, stage.address) as client:
            place_of = tracking.experiment(client, stage.params.registry.experiment, stage.root)
            run_id = tracking.ensure_run(client, place_of, made)
    write_json(metrics / f"{name}.json", {"run_id": run_id} | evaluation)
    print(f"{made.name}: run {run_id}", flush=True)


if __name__ == "__main__":
    run_item(main, "log", BASELINES)
