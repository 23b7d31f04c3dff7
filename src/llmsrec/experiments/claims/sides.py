"""LLM-SRec under one setting beside itself under another, or beside its teacher: a table a protocol, and its claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmsrec.evaluation.names import METRICS, MODELS, PROTOCOLS, shown
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.section import Claim, Section, claim, level, note

METRIC = "ndcg_10"  # what claims are decided by


@dataclass(frozen=True)
class Side:
    """A row.

    Attributes:
        setting: a key of `runs.SETTINGS`.
        model: of that run: `llm_srec`, `sasrec`, or `tower_blend`.
        title: of the row, and in a claim.
    """

    setting: str
    model: str
    title: str

    def values(self, results: Results, protocol: str, metric: str) -> np.ndarray:
        """`[seeds, n]` of each user of test."""
        return results.values(self.setting, self.model, "test", protocol, metric)


def section(results: Results, title: str, pairs: Sequence[tuple[Side, Side]], *published: Table) -> Section:
    """All sides in a table a protocol; of each pair it is claimed that the first is better than the second.

    Args:
        published: the paper's numbers, where it has some.
    """
    sides = list(dict.fromkeys(side for pair in pairs for side in pair))
    tables, claims = [], []
    for protocol in PROTOCOLS:
        rows = [
            (side.title, *(level(side.values(results, protocol, m), results.measures) for m in METRICS))
            for side in sides
        ]
        said = note(results.measures, results.seeds)
        tables.append(Table(f"Test, {protocol}", ("", *map(shown, METRICS)), rows, said))
        claims += [better(results, protocol, *pair) for pair in pairs]
    return Section(title, [*tables, *published], claims)


def better(results: Results, protocol: str, ours: Side, theirs: Side) -> Claim:
    """That the first is better, by NDCG@10 of all users."""
    text = f"{protocol}: {ours.title} is better than {theirs.title}"
    first, second = (side.values(results, protocol, METRIC) for side in (ours, theirs))
    return claim(text, first, second, results.measures)


def of_paper(rows: Mapping[str, tuple[float, ...]], data: tuple[str, ...]) -> Table:
    """The paper's NDCG@10, uni99."""
    cells: list[tuple[str, ...]] = [(title, *(f"{value:.4f}" for value in values)) for title, values in rows.items()]
    return Table("The paper's NDCG@10 (uni99), on its own data", ("", *data), cells)


LLM_SREC, TEACHER = MODELS["llm_srec"], MODELS["sasrec"]
