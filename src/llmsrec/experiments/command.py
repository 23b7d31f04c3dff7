"""`llmsrec paper` and `llmsrec claims`: which sections there are, running what one needs, and the page of all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient

from llmsrec import params as parameters
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.experiments import page, queue
from llmsrec.experiments.about import about
from llmsrec.experiments.collection import Collection
from llmsrec.experiments.results import Measures, Results
from llmsrec.experiments.section import Section
from llmsrec.experiments.workspace import Workspace
from llmsrec.registry import tracking


def show(collection: Collection, root: Path, seeds: list[int]) -> str:
    """Each section, and how many of its runs are there.

    Raises:
        ParamsError: `root` is no repository of this kind.
    """
    parameters.load(root / "params.yaml")
    lines, workspace = [], Workspace(root)
    for name in collection.names:
        module = collection.module(name)
        wanted = module.runs(seeds)
        left = len(queue.missing(wanted, workspace))
        state = "complete" if not left else f"{left} of {len(wanted)} runs missing"
        lines.append(f"{name:<11} {module.TITLE:<55} {state}")
    word = f"llmsrec {collection.command}"
    return "\n".join([*lines, "", f"`{word} run NAME` runs what is missing; `{word} page` makes the page"])


def run(collection: Collection, root: Path, names: list[str], seeds: list[int], jobs: int) -> list[Section]:
    """Run what is missing for some sections, each run once, and make them.

    Raises:
        RequestError: there is no such section.
        DataError: a run failed.
    """
    modules = [collection.module(name) for name in names]
    workspace = Workspace(root)
    wanted = list(dict.fromkeys(run for module in modules for run in module.runs(seeds)))
    queue.complete(wanted, workspace, jobs)
    with _registry(workspace) as (client, measures, place):
        results = Results(client, workspace, place, seeds, measures)
        return [module.make(results) for module in modules]


def write(collection: Collection, root: Path, seeds: list[int], markdown: Path | None = None) -> str:
    """The page of all sections whose runs are complete, attached to the MLflow experiment; which are not is said on it.

    Where a section lacks some of the seeds, it is made of those that come before.

    Args:
        markdown: a file that the page is also written to, as Markdown without pictures.
    """
    workspace = Workspace(root)
    complete = {name: _complete_seeds(collection, name, seeds, workspace) for name in collection.names}
    missing = [collection.module(name).TITLE for name, number in complete.items() if not number]
    with _registry(workspace) as (client, measures, place):
        results = {
            n: Results(client, workspace, place / str(n), seeds[:n], measures) for n in set(complete.values()) if n
        }
        sections = [collection.module(name).make(results[number]) for name, number in complete.items() if number]
    params = parameters.load(root / "params.yaml")
    said = about(params)
    written = page.write(root / collection.folder, collection.title, sections, missing, said)
    if markdown:
        page.write_markdown(markdown, collection.title, sections, missing, said)
    with tracking.existing(root, "Run this again") as client:
        experiment = tracking.experiment(client, params.registry.experiment, root)
        tags = {f"llmsrec.{collection.command}": "page"}
        logged = client.create_run(experiment, tags=tags, run_name=collection.title).info.run_id
        client.log_artifacts(logged, str(root / collection.folder))
        client.set_terminated(logged)
    return f"{len(sections)} of {len(collection.names)} -> {written.relative_to(root)}; MLflow run {logged}"


def _complete_seeds(collection: Collection, name: str, seeds: list[int], workspace: Workspace) -> int:
    """How many of the seeds, from the first on, have all runs of a section."""
    runs = collection.module(name).runs
    return next((n for n in range(len(seeds), 0, -1) if not queue.missing(runs(seeds[:n]), workspace)), 0)


@contextmanager
def _registry(workspace: Workspace) -> Iterator[tuple[MlflowClient, Measures, Path]]:
    """Where results are, how intervals are made, and a folder for a while."""
    params = parameters.load(workspace.root / "params.yaml")
    measures = Measures(Bootstrap(params.evaluate.bootstrap, params.evaluate.seed), params.split.negatives)
    with tracking.existing(workspace.root, "Run this again") as client, tempfile.TemporaryDirectory() as place:
        yield client, measures, Path(place)
