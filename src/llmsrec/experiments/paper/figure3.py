"""Figure 3: users by how much order their histories have (paper, 4.1)."""

from llmsrec.experiments.paper import groups, table3
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import Run, of
from llmsrec.experiments.section import Section

TITLE = "Figure 3: users by how much order their histories have"


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], table3.WHAT, seeds)


def make(results: Results) -> Section:
    return groups.section(results, TITLE, ("transition", "non_transition"))
