"""The report's figures as PNG files; equal numbers give equal bytes."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmsrec.evaluation.names import MODELS, PROTOCOLS, meaning
from llmsrec.files import atomic

COLORS = {  # distinct to the colour-blind too
    "llm_srec": "#0072b2",
    "gru4rec": "#d55e00",
    "bert4rec": "#cc79a7",
    "nextitnet": "#009e73",
    "ctrl": "#56b4e9",
    "sasrec": "#e69f00",
    "popularity": "#8c8c8c",
}
TOWER_COLORS = {"llm": "#0072b2", "cf": "#56b4e9", "teacher": "#e69f00", "blend": "#009e73"}
LINES = {"loss": "#222222", "retrieval": "#0072b2", "distill": "#d55e00", "uniform": "#009e73"}
SLICES = ("all", "warm", "cold", "transition", "non_transition")
METRIC = "ndcg_10"
ENDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.1)  # of an axis of scores
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
}


def training(path: Path, curve: list[dict[str, Any]]) -> None:
    """The losses and the validation NDCG@10 at each check.

    Args:
        path: the PNG to write.
        curve: models/llm_srec/curve.json; a value that a check lacks is left out.
    """
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        losses, scores = figure.subplots(1, 2)
        for name, color in LINES.items():
            _line(losses, curve, name, "sum" if name == "loss" else name, color)
        for protocol, color in zip(PROTOCOLS, ("#0072b2", "#cc79a7"), strict=True):
            key = f"valid/{protocol}/{METRIC}"
            _line(scores, curve, key, protocol, color, marker="o")
            points = [(row["epoch"], row[key]) for row in curve if "epoch" in row and key in row]
            if points:
                best = max(points, key=lambda point: point[1])
                scores.annotate(
                    f"{best[1]:.3f}", best, xytext=(0, 7), textcoords="offset points", ha="center", color=color
                )
        label(losses, "Loss", "epoch", "weighted loss, mean since the last check")
        label(scores, "Validation, with the best of each", "epoch", "NDCG@10")
        from_zero(
            scores, [row[key] for row in curve for key in row if key.startswith("valid/") and key.endswith(METRIC)]
        )
        save(figure, path)


def shuffle(path: Path, comparison: dict[str, Any]) -> None:
    """Each model's test NDCG@10 on original and on shuffled histories, with intervals (paper, Sec. 2.3.2)."""
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        models = [model for model in MODELS if model in comparison["means"]]
        for axes, (protocol, title) in zip(figure.subplots(1, 2), titles(comparison).items(), strict=True):
            for offset, split, alpha in ((-0.2, "test", 1.0), (0.2, "test_shuffled", 0.45)):
                means = [comparison["means"][model][split][protocol][METRIC] for model in models]
                _bars(axes, np.arange(len(models)) + offset, 0.38, means, [COLORS[m] for m in models], alpha)
            for place, model in enumerate(models):
                change = comparison["shuffle"][model][protocol][METRIC].get("relative")
                if change is not None:
                    top = comparison["means"][model]["test_shuffled"][protocol][METRIC]["high"]
                    axes.annotate(
                        f"{change:+.1%}", (place + 0.2, top), xytext=(0, 4), textcoords="offset points", ha="center"
                    )
            axes.set_xticks(range(len(models)), [MODELS[model] for model in models])
            ends = (
                comparison["means"][model][split][protocol] for model in models for split in ("test", "test_shuffled")
            )
            from_zero(axes, [intervals[METRIC]["high"] for intervals in ends])
            label(axes, title, "", "NDCG@10")
        figure.suptitle(f"Test: original (solid) and shuffled (pale) histories, {_interval(comparison)}")
        save(figure, path)


def slices(path: Path, comparison: dict[str, Any]) -> None:
    """Each model's test NDCG@10 in each slice that has users, with intervals (paper, Fig. 3 and 4)."""
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        models = [model for model in MODELS if model in comparison["means"]]
        shown = [name for name in SLICES if comparison["users"].get(name)]
        for axes, (protocol, title) in zip(figure.subplots(2, 1), titles(comparison).items(), strict=True):
            highest = []
            for number, model in enumerate(models):
                measured = comparison["means"][model]["test"][protocol]
                scores = [(measured if name == "all" else measured[name])[METRIC] for name in shown]
                highest += [score["high"] for score in scores]
                places = np.arange(len(shown)) + (number - (len(models) - 1) / 2) * 0.81 / len(models)
                _bars(axes, places, 0.75 / len(models), scores, [COLORS[model]] * len(shown), 1.0, label=MODELS[model])
            ticks = [f"{name.replace('_', '-')}\n{comparison['users'][name]:,} users" for name in shown]
            axes.set_xticks(range(len(shown)), ticks)
            from_zero(axes, highest)
            label(axes, title, "", "NDCG@10")
        figure.suptitle(
            "Test: warm and cold targets (top and bottom 35 % of items), transition and non-transition users "
            f"(by t-score),\n{_interval(comparison)}"
        )
        save(figure, path)


def towers(path: Path, comparison: dict[str, Any]) -> None:
    """Each tower's test NDCG@10, with intervals, and the teacher's as a line to be level with."""
    measured = comparison["towers"]["ndcg_10"]
    names = [name for name in TOWER_COLORS if name in measured]
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        for axes, (protocol, title) in zip(figure.subplots(1, 2), titles(comparison).items(), strict=True):
            scores = [measured[name][protocol] for name in names]
            _bars(axes, np.arange(len(names)), 0.5, scores, [TOWER_COLORS[name] for name in names], 1.0)
            axes.axhline(
                measured["teacher"][protocol]["mean"], color=TOWER_COLORS["teacher"], linestyle="--", linewidth=1
            )
            axes.set_xticks(range(len(names)), names)
            from_zero(axes, [score["high"] for score in scores])
            label(axes, title, "", "NDCG@10")
        figure.suptitle(f"Test: what each tower of the version ranks, {_interval(comparison)}; dashed: the teacher")
        save(figure, path)


def titles(comparison: dict[str, Any]) -> dict[str, str]:
    """What each protocol ranks among: uni99 keeps its name whatever `split.negatives` is."""
    return {protocol: meaning(protocol, comparison["negatives"]) for protocol in PROTOCOLS}


def _line(axes: Axes, curve: list[dict[str, Any]], key: str, label: str, color: str, marker: str = "") -> None:
    points = [(row["epoch"], row[key]) for row in curve if "epoch" in row and key in row]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, color=color, marker=marker, markersize=3)


def _bars(
    axes: Axes, places: np.ndarray, width: float, scores: list[Any], colors: list[str], alpha: float, label: str = ""
) -> None:
    """Bars at the means, with their intervals."""
    means = np.array([score["mean"] for score in scores])
    errors = np.abs(np.array([[score["low"], score["high"]] for score in scores]).T - means)
    axes.bar(places, means, width, color=colors, alpha=alpha, label=label or None)
    axes.errorbar(places, means, errors, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)


def from_zero(axes: Axes, scores: list[float]) -> None:
    """End the axis at the next of `ENDS` above all scores: pictures of like runs have one axis, side by side."""
    above = 1.1 * max(scores, default=0.0)  # what is written above the highest has room
    axes.set_ylim(0, next((end for end in ENDS if end >= above), ENDS[-1]))


def label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(axis="x", visible=False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.98), ncols=4, columnspacing=1.2, handlelength=1.2)


def _interval(comparison: dict[str, Any]) -> str:
    return f"{comparison['interval']['level']} % intervals over users"


def save(figure: Figure, path: Path) -> None:
    """Without the library's version in the metadata, so that only the picture decides the bytes."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
