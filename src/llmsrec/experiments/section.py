"""What a table, a figure or a question is made of: rows with intervals, pictures, and claims that figures decide."""

from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from llmsrec.evaluation.significance import LEVEL
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Measures


@dataclass(frozen=True)
class Claim:
    """A sentence, mostly of the paper, and whether it shows here.

    Attributes:
        text: what is claimed, of which some figure should be above 0.
        figure: that figure with its interval, for people.
        verdict: `holds`, `not beyond noise` or `contradicted`.
    """

    text: str
    figure: str
    verdict: str


@dataclass(frozen=True)
class Section:
    """One table or figure of the paper, or one question.

    Attributes:
        title: its own.
        tables, claims: of it.
        pictures: name -> figure.
    """

    title: str
    tables: list[Table] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    pictures: dict[str, Figure] = field(default_factory=dict)


def claim(text: str, ours: np.ndarray, theirs: np.ndarray, measures: Measures) -> Claim:
    """Judge that `ours` is above `theirs`, `[seeds, n]` each, the same users: by the paired interval of the difference.

    The whole interval above 0: it holds; all of it below: contradicted; else it is not beyond noise.
    """
    minus = measures.bootstrap.difference(ours.mean(axis=0), theirs.mean(axis=0))
    figure = f"{minus['difference']:+.4f} ({minus['low']:+.4f} .. {minus['high']:+.4f})"
    return Claim(text, figure, verdict(minus["low"], minus["high"]))


def verdict(low: float, high: float) -> str:
    """Of a figure that should be above 0, by the ends of its interval or the least and greatest of several."""
    return "holds" if low > 0 else "contradicted" if high < 0 else "not beyond noise"


def claim_of_change(text: str, ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray],
                    measures: Measures) -> Claim:  # fmt: skip
    """Judge that shuffling costs us more than them: each `(original, shuffled)`, by the difference of the losses."""
    return claim(text, ours[0] - ours[1], theirs[0] - theirs[1], measures)


def level(values: np.ndarray, measures: Measures) -> str:
    """The mean of `[seeds, n]` with its interval over users, and the seeds' standard deviation where there are some."""
    whole = measures.bootstrap.mean(values.mean(axis=0))
    spread = f" ± {values.mean(axis=1).std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{whole['mean']:.4f}{spread} ({whole['low']:.4f} .. {whole['high']:.4f})"


def change(values: np.ndarray, base: np.ndarray, measures: Measures) -> str:
    """The relative change from `base` to `values`, `[seeds, n]` each, with its paired interval."""
    relative = measures.bootstrap.change(values.mean(axis=0), base.mean(axis=0))
    return f"{relative['change']:+.1%} ({relative['low']:+.1%} .. {relative['high']:+.1%})" if relative else "-"


def note(measures: Measures, seeds: list[int], more: str = "") -> str:
    """What the brackets mean, and how many trainings are behind a row."""
    of_seeds = f"mean of {len(seeds)} seeds, ± their standard deviation" if len(seeds) > 1 else "one seed"
    interval = f"In brackets: {LEVEL} % bootstrap over users, paired where it is of a change"
    return f"{interval}; {of_seeds}. {more}".strip()
