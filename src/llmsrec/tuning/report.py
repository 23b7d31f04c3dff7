"""What a study found: as JSON, as a table, and as two figures."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from llmsrec.evaluation.plots import STYLE, label, save
from llmsrec.files import write_json
from llmsrec.registry import trials as logged
from llmsrec.tuning import space
from llmsrec.tuning.study import FINISHED, SETTING, digest

STEP = 0.05  # of the objective's axis
FEWEST = 4  # complete trials from which importances are estimated
ENDED = (*FINISHED, TrialState.FAIL)


def summary(study: optuna.Study) -> dict[str, Any]:
    """The study as plain values: its setting, trials in order, the best one, and how much each parameter decides."""
    setting = study.user_attrs[SETTING]
    trials = [_trial(trial) for trial in study.get_trials(deepcopy=False)]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    return {
        "study": study.study_name,
        "fidelity": setting["fidelity"]["tune.fidelity"],
        "objective": objective(study),
        "validation_users": setting["parameters"]["evaluate.validation_users"],
        "space": setting["search space"],
        "trials": trials,
        "best": max(complete, key=lambda trial: trial["value"], default=None),
        "importance": importance(study),
    }


def objective(study: optuna.Study) -> str:
    """The name of the metric that is maximised, such as `valid/uni99/ndcg_10`."""
    return f"valid/{study.user_attrs[SETTING]['objective']['train.monitor']}"


def importance(study: optuna.Study) -> dict[str, float]:
    """Each parameter's share in what decides the objective (PED-ANOVA), largest first; empty with too few trials."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST or len({trial.value for trial in complete}) == 1:
        return {}
    return optuna.importance.get_param_importances(study)


def write(study: optuna.Study, folder: Path) -> list[Path]:
    """Write study.json, history.png and importance.png; returns their paths."""
    results = summary(study)
    paths = [folder / name for name in ("study.json", "history.png", "importance.png")]
    write_json(paths[0], results)
    draw_history(paths[1], results)
    draw_importance(paths[2], results)
    return paths


def table(results: dict[str, Any]) -> str:
    """The trials, best first, for a terminal."""
    trials = sorted(results["trials"], key=lambda trial: (trial["state"] != "complete", -(trial["value"] or 0)))
    lines = [f"{'trial':>5}  {'state':<8}  {results['objective']:>20}  {'s':>7}  values"]
    for one in trials:
        value = "-" if one["value"] is None else f"{one['value']:.4f}"
        seconds = "-" if one["seconds"] is None else f"{one['seconds']:.1f}"
        lines.append(f"{one['number']:>5}  {one['state']:<8}  {value:>20}  {seconds:>7}  {space.text(one['values'])}")
    shares = ", ".join(f"{key} {share:.2f}" for key, share in results["importance"].items())
    return "\n".join([*lines, "", f"importance: {shares or 'too few trials'}"])


def draw_history(path: Path, results: dict[str, Any]) -> None:
    """The objective of each trial in order, and the best so far."""
    complete = [(one["number"], one["value"]) for one in results["trials"] if one["state"] == "complete"]
    pruned = [(one["number"], one["value"]) for one in results["trials"] if one["state"] == "pruned" and one["value"]]
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(8, 3.8), layout="constrained")
        axes = figure.subplots()
        if complete:
            numbers, values = np.array(complete).T
            axes.plot(numbers, values, "o", color="#0072b2", label="complete")
            axes.step(numbers, np.maximum.accumulate(values), where="post", color="#d55e00", label="best so far")
        if pruned:
            axes.plot(*np.array(pruned).T, "x", color="#8c8c8c", label="pruned, last check")
        _scale(axes, [value for _, value in complete], [value for _, value in pruned])
        _rounded(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(-0.5, len(results["trials"]) - 0.5 if len(results["trials"]) > 1 else 0.5)
        label(axes, f"Study {results['study']}, fidelity {results['fidelity']}", "trial", results["objective"])
        save(figure, path)


def _scale(axes: Axes, complete: list[float], pruned: list[float]) -> None:
    """Leave out trials that failed to learn, and say so: they would press the others into a line."""
    shown = sorted([*complete, *pruned])
    if not complete or max(complete) == (quarter := shown[len(shown) // 4]):
        return
    best = max(complete)
    bottom = best - 5 * (best - quarter)
    below = sum(value < bottom for value in shown)
    if below:
        axes.set_ylim(bottom, best + 0.3 * (best - quarter))
        said = f"{below} below {bottom:.3f}, the lowest {shown[0]:.3f}"
        axes.text(0.01, 0.02, said, transform=axes.transAxes, color="#8c8c8c")


def _rounded(axes: Axes) -> None:
    """Widen the axis of the objective to whole `STEP`s, so that studies of like values have one axis, side by side."""
    low, high = axes.get_ylim()
    axes.set_ylim(STEP * np.floor(low / STEP), STEP * np.ceil(high / STEP))


def draw_importance(path: Path, results: dict[str, Any]) -> None:
    """How much each parameter decides."""
    shares = results["importance"]
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(8, 1.6 + 0.4 * max(1, len(shares))), layout="constrained")
        axes = figure.subplots()
        if not shares:
            axes.set_yticks([])
        bars = axes.barh(list(shares)[::-1], list(shares.values())[::-1], color="#0072b2")
        axes.bar_label(bars, fmt="{:.2f}", padding=3)
        axes.set_xlim(0, 1.05)  # of two studies the same length means the same share
        title = "Importance (PED-ANOVA)" if shares else f"Importance: fewer than {FEWEST} different complete trials"
        label(axes, title, "share", "")
        save(figure, path)


def for_mlflow(study: optuna.Study) -> logged.Study:
    """What MLflow is told."""
    setting = study.user_attrs[SETTING]
    ended = [_logged(trial, setting) for trial in study.get_trials(deepcopy=False) if trial.state in ENDED]
    shared = setting["parameters"] | setting["fidelity"] | {"tune.study": study.study_name}
    return logged.Study(digest([study.study_name, setting]), study.study_name, objective(study), shared, ended)


def _logged(trial: FrozenTrial, setting: dict[str, Any]) -> logged.Trial:
    assert trial.datetime_complete is not None
    began = trial.datetime_start or trial.datetime_complete
    values = space.values(trial.params)
    return logged.Trial(
        number=trial.number,
        name=f"trial {trial.number}: {space.text(values)}",
        state=trial.state.name.lower(),
        began=int(began.timestamp() * 1000),
        ended=int(trial.datetime_complete.timestamp() * 1000),
        params=setting["parameters"] | values,
        curve=trial.intermediate_values,
        scores=trial.user_attrs.get("scores", {}),
    )


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "seconds": trial.user_attrs.get("seconds"),
        "values": space.values(trial.params),
        "retry_of": trial.system_attrs.get("failed_trial"),
        "error": trial.user_attrs.get("error"),
    }
