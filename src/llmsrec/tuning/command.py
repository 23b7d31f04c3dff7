"""`llmsrec tune`: a worker of the study, what it found, and its winner in params.yaml."""

import difflib
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import torch
from ruamel.yaml import YAML

from llmsrec import params as parameters
from llmsrec.errors import ParamsError
from llmsrec.files import atomic
from llmsrec.registry import address
from llmsrec.registry import trials as mlflow_trials
from llmsrec.tuning import report, space, study, trials

PARAMS = Path("params.yaml")


def run(root: Path) -> optuna.Study:
    """Begin the study that params.yaml names, or go on with it, until it has all its trials.

    Args:
        root: the repository that keeps storage, MLflow and the state of trials that were cut short.

    Raises:
        LLMSRecError: params.yaml, data or storage that do not fit; nothing is lost then.
    """
    torch.use_deterministic_algorithms(True)
    params = parameters.load(PARAMS)
    space.check(params)
    address.reachable(root)  # before anything is trained
    shared = study.begin(params, trials.inputs(params), root)
    train = trials.trainer(params, root / ".cache/tune")
    resume = root / ".resume/tune"
    study.Worker(shared, params, train, resume, lambda: log(shared, params, root, [])).work()
    return shared


def log(shared: optuna.Study, params: parameters.Params, root: Path, files: list[Path]) -> str:
    """Tell MLflow what it does not know yet; returns the id of the study's run."""
    return mlflow_trials.log(root, params.registry.experiment, report.for_mlflow(shared), files)


def show(root: Path) -> str:
    """The study's trials as a table, best first."""
    return report.table(report.summary(study.find(parameters.load(PARAMS), root)))


def winner(root: Path) -> tuple[str, str]:
    """What `apply` would change, as a unified diff, and params.yaml's text with it.

    Raises:
        ParamsError: no trial is complete, or params.yaml has changed since the study was begun.
    """
    params = parameters.load(PARAMS)
    studied = study.find(params, root)
    best = report.summary(studied)["best"]
    if best is None:
        raise ParamsError(f"no trial of study {studied.study_name!r} is complete yet; run `llmsrec tune`.")
    now = study.setting(params, {})
    changed = study.differences(studied, {part: now[part] for part in ("search space", "fidelity", "objective")})
    changed |= study.differences(studied, {"parameters": now["parameters"]})
    if changed:
        lines = "; ".join(line for lines in changed.values() for line in lines)
        raise ParamsError(
            f"params.yaml has changed since study {studied.study_name!r} was begun: {lines}. Its winner may not win "
            "with these; put them back, or tune again under another name (tune.study)."
        )
    before = PARAMS.read_text(encoding="utf-8")
    after = rewritten(before, best["values"])
    names = f"{PARAMS} as it is", f"{PARAMS} with trial {best['number']}"
    changes = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, n=0, lineterm="")
    return "\n".join(changes), after


def rewritten(text: str, values: dict[str, Any]) -> str:
    """params.yaml's text with some keys' values replaced; comments, order and style stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    tree = yaml.load(text)
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    out = StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def apply(after: str) -> None:
    """Write what `winner` returned."""
    with atomic(PARAMS) as temporary:
        temporary.write_text(after, encoding="utf-8")
