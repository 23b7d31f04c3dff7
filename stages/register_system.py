"""One of the compared systems by itself as a version that can be served: `python -m stages.register_system gru4rec`."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from llmsrec import systems
from llmsrec.drift import reference
from llmsrec.evaluation import alone, slices, test_users
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.export import bundle
from llmsrec.files import read_json, sha256, write_json
from llmsrec.models.cf import teacher
from llmsrec.registry import alone as versions
from llmsrec.registry import tracking
from llmsrec.systems.task import Task
from stages.common import Stage, run_item
from stages.log import METRICS, PAIRED
from stages.rank import OUT

FORM, PIPELINE = "retrieval", Path("alone")


def main(stage: Stage) -> None:
    system, settings = stage.name.partition("@")[2], stage.params.registry
    trained = systems.folder(system, FORM)
    task = Task(system, FORM, None, stage.params, trained, stage.resume, stage.root, "cpu")
    # MLflow stores a folder under its own name, and a version has its bundle in `bundle`.
    folder, logged = Path(f"models/{system}-alone/bundle"), METRICS / f"{system}-{FORM}.json"
    digest = export(stage, task, folder)
    evaluation, curve = read_json(OUT / f"{system}-{FORM}.json"), read_json(task.folder / "curve.json")
    run_id = read_json(logged)["run_id"]
    with TemporaryDirectory() as place:
        evidence(stage, task, Path(place))
        with tracking.connected(stage.root, stage.address) as client:
            outs = versions.Outs(folder, Path(place), evaluation, curve)
            version = versions.register(client, run_id, system, settings.model, task.data, outs)
    about = {"name": settings.model, "version": version, "run_id": run_id, "bundle_sha256": digest}
    write_json(METRICS / f"{system}-registered.json", about)
    print(f"{settings.model} version {version} is {system} by itself; run {run_id}", flush=True)
    print(f"  llmsrec promote {settings.model}/{version} --to staging\n      what the gate says of it", flush=True)


def export(stage: Stage, task: Task, folder: Path) -> str:
    """Write its bundle and return the digest."""
    bundle.write_alone(
        folder,
        teacher.load(task.folder, task.system),
        stage.data("filtered", "split"),
        bundle.catalogue(task.catalogue, task.split / "train.parquet"),
        task.interactions.drop_last(1),
        stage.params.export.users,
        stage.params.export.tolerance,
        stage.params.data.repeats,
        stage.params.export.index_above,
    )
    return reference.add(folder, task.interactions)


def evidence(stage: Stage, task: Task, reports: Path) -> None:
    """Write what a promotion goes by, beside the ranks, to `reports`."""
    settings, test = stage.params.evaluate, task.cases["test"]
    groups = slices.of_test(task.interactions, task.sequences, test.users, test.targets)
    bootstrap, ranks = Bootstrap(settings.bootstrap, settings.seed), alone.read(OUT / f"{task.system}-{FORM}.parquet")
    comparison = alone.comparison(ranks, groups, bootstrap, task.system)
    comparison |= {"data": stage.data("filtered", "split"), "negatives": test.negatives.shape[1]}
    comparison["paired_by"] = {path.name: sha256(task.data / path) for path in PAIRED}
    write_json(reports / "comparison.json", comparison)
    shutil.copy("reports/checks.json", reports)
    test_users.write(reports, task.data / "filtered", settings.test_users, settings.seed, test)


if __name__ == "__main__":
    run_item(main, "register", PIPELINE)
