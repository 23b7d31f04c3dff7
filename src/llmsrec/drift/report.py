"""A comparison as text, Markdown, JSON and a picture."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from llmsrec.drift.figures import DISTANCES, Figure
from llmsrec.drift.reference import BINS
from llmsrec.errors import DataError
from llmsrec.evaluation.plots import STYLE, from_zero, label, save
from llmsrec.files import atomic, write_json

NAMES = {
    "popularity": "popularity of items, PSI",
    "unknown": "unknown items, share",
    "length": "length of histories, KS",
    "entropy_cf": "entropy of scores, cf, KS",
    "entropy_llm": "entropy of scores, llm, KS",
    "entropy_teacher": "entropy of scores, teacher, KS",
    "overlap": "overlap@10 of the towers, KS",
}
COLORS = ("#8c8c8c", "#0072b2")
ROOM = 1.25  # above the training's highest bar
FILES = ("drift.md", "drift.json", "drift.png")


@dataclass(frozen=True)
class Comparison:
    """Requests beside the training data of a version.

    Attributes:
        version: such as shop/3.
        source: where the requests come from.
        reference, seen: rows of `reference.measure`.
        figures: of `figures.compare`.
    """

    version: str
    source: str
    reference: pl.DataFrame
    seen: pl.DataFrame
    figures: list[Figure]

    @property
    def drifts(self) -> bool:
        return any(figure.drifts for figure in self.figures)

    @property
    def verdict(self) -> str:
        names = [NAMES[figure.name] for figure in self.figures if figure.drifts]
        return f"DRIFT: {'; '.join(names)}" if names else "no drift"

    @property
    def title(self) -> str:
        return f"{self.seen.height:,} users of {self.source} beside {self.reference.height:,} that {self.version} knows"

    def text(self) -> str:
        """The table and the verdict for a terminal."""
        head, *rows = self._rows()
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        return "\n".join([self.title, *(line.rstrip() for line in lines), self.verdict])

    def markdown(self) -> str:
        """The same for a page."""
        head, *rows = self._rows()
        table = [head, ["---"] * len(head), *rows]
        lines = [f"| {' | '.join(row)} |" for row in table]
        return "\n".join(["# Drift", "", self.title + ".", "", *lines, "", f"**{self.verdict}**", ""])

    def metrics(self) -> dict[str, float]:
        """Flat, as MLflow takes them."""
        values = {f"drift/{figure.name}": figure.value for figure in self.figures}
        return {**values, "drift/users": float(self.seen.height), "drift/found": float(self.drifts)}

    def write(self, folder: Path) -> None:
        """Write `FILES` to a folder.

        Raises:
            DataError: nothing can be written there.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot write to {folder}: {error.strerror}; choose another --out.") from error
        with atomic(folder / "drift.md") as temporary:
            temporary.write_text(self.markdown(), encoding="utf-8")
        about = {"version": self.version, "source": self.source, "users": self.seen.height, "drift": self.drifts}
        rows = [asdict(figure) | {"drift": figure.drifts} for figure in self.figures]
        write_json(folder / "drift.json", about | {"figures": rows})
        self._plot(folder / "drift.png")

    def _rows(self) -> list[list[str]]:
        head = ["figure", "value", "limit", "by chance up to", "in training", "now", ""]
        return [
            head,
            *(
                [
                    NAMES[figure.name],
                    *(f"{value:.4g}" for value in (figure.value, figure.limit, figure.chance)),
                    *("" if value is None else f"{value:.4g}" for value in (figure.before, figure.now)),
                    "drift" if figure.drifts else "ok",
                ]
                for figure in self.figures
            ),
        ]

    def _plot(self, path: Path) -> None:
        names = [name for name in DISTANCES if name in self._drawn()]
        with style.context(STYLE, after_reset=True):
            picture = Picture(figsize=(3.4 * (1 + len(names)), 3.4), layout="constrained")
            first, *others = np.atleast_1d(picture.subplots(1, 1 + len(names)))
            self._bins(first)
            for axes, name in zip(others, names, strict=True):
                self._histogram(axes, name)
            picture.suptitle(f"{self.title}\n{self.verdict}", fontsize=10, ha="left", x=0.01)
            save(picture, path)

    def _drawn(self) -> set[str]:
        return {figure.name for figure in self.figures}

    def _bins(self, axes: Axes) -> None:
        highest = []
        for frame, name, color, offset in zip(
            (self.reference, self.seen), ("training", "now"), COLORS, (-0.2, 0.2), strict=True
        ):
            events = frame["bins"].to_numpy().sum(axis=0)
            shares = events / max(1, events.sum())
            axes.bar(np.arange(BINS) + offset, shares, 0.4, color=color, label=name)
            highest.append(shares.max())
        _upward(axes, *highest)
        label(axes, "Items by popularity in training", "tenth of events, popular first", "share of events")
        axes.legend()

    def _histogram(self, axes: Axes, name: str) -> None:
        sides = [frame[name].drop_nulls().to_numpy() for frame in (self.reference, self.seen)]
        edges = np.linspace(*ends(sides), 21)
        highest = []
        for side, color in zip(sides, COLORS, strict=True):
            values = np.clip(side, edges[0], edges[-1])
            shares, _, _ = axes.hist(
                values, edges.tolist(), weights=np.full(len(side), 1 / len(side)), color=color, alpha=0.6
            )
            highest.append(np.max(shares))
        _upward(axes, *highest)
        label(axes, NAMES[name].removesuffix(", KS"), name.partition("_")[0], "share of users")


def _upward(axes: Axes, training: float, now: float) -> None:
    """The training's highest bar decides, unless one of now is far above: so a version's pictures have one axis."""
    from_zero(axes, [ROOM * training, now])


def ends(sides: list[np.ndarray]) -> tuple[float, float]:
    """Where a histogram begins and ends: at whole steps, so that pictures of like users have one axis, side by side.

    A step is 1, 10, 100 ... (of shares .1, .01 ...), the largest up to the 99th percentile; what is above the end is in
    the last bar.
    """
    top = max(float(np.quantile(np.concatenate(sides), 0.99)), 1e-9)
    step = 10.0 ** np.floor(np.log10(top))
    low = min(side.min() for side in sides)
    return step * np.floor(low / step), step * (np.floor(top / step) + 1)
