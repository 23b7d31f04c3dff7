"""`llmsrec paper`: which tables there are, running what one needs, and the page of all."""

import tempfile
from pathlib import Path

from llmsrec import params as parameters
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.experiments import page, paper, queue
from llmsrec.experiments.paper.section import Section
from llmsrec.experiments.results import Measures, Results
from llmsrec.experiments.workspace import Workspace
from llmsrec.registry import tracking

OUT = Path("reports/paper")
TAG = "llmsrec.paper"  # of the run that has the page


def show(root: Path, seeds: list[int]) -> str:
    """Each table and figure, and how many of its runs are there."""
    lines, workspace = [], Workspace(root)
    for name in paper.NAMES:
        module = paper.module(name)
        wanted = module.runs(seeds)
        left = len(queue.missing(wanted, workspace))
        state = "complete" if not left else f"{left} of {len(wanted)} runs missing"
        lines.append(f"{name:<11} {module.TITLE:<55} {state}")
    return "\n".join([*lines, "", "`llmsrec paper run NAME` runs what is missing; `llmsrec paper page` makes the page"])


def run(root: Path, names: list[str], seeds: list[int], jobs: int) -> list[Section]:
    """Run what is missing for some tables, each run once, and make them.

    Raises:
        RequestError: there is no such table.
        DataError: a run failed.
    """
    modules = [paper.module(name) for name in names]
    workspace = Workspace(root)
    wanted = list(dict.fromkeys(run for module in modules for run in module.runs(seeds)))
    queue.complete(wanted, workspace, jobs)
    return make(workspace, names, seeds)


def make(workspace: Workspace, names: list[str], seeds: list[int]) -> list[Section]:
    """Tables whose runs are all there."""
    params = parameters.load(workspace.root / "params.yaml")
    measures = Measures(Bootstrap(params.evaluate.bootstrap, params.evaluate.seed), params.split.negatives)
    with tracking.existing(workspace.root, "Run this again") as client, tempfile.TemporaryDirectory() as place:
        results = Results(client, workspace, Path(place), seeds, measures)
        return [paper.module(name).make(results) for name in names]


def write(root: Path, seeds: list[int]) -> str:
    """The page of all tables whose runs are there, attached to the MLflow experiment; which are not is said on it."""
    workspace = Workspace(root)
    complete = [name for name in paper.NAMES if not queue.missing(paper.module(name).runs(seeds), workspace)]
    missing = [paper.module(name).TITLE for name in paper.NAMES if name not in complete]
    sections = make(workspace, complete, seeds)
    written = page.write(OUT, sections, missing, seeds)
    params = parameters.load(root / "params.yaml")
    with tracking.existing(root, "Run this again") as client:
        place = tracking.experiment(client, params.registry.experiment, root)
        logged = client.create_run(place, tags={TAG: "page"}, run_name="the paper's tables and figures").info.run_id
        client.log_artifacts(logged, str(OUT))
        client.set_terminated(logged)
    return f"{len(complete)} of {len(paper.NAMES)} -> {written}; MLflow run {logged}"
