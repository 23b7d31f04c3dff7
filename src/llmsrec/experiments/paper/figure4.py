"""Figure 4: users by warm and cold items (paper, 4.1)."""

from llmsrec.experiments.paper import groups, table3
from llmsrec.experiments.paper.section import Section
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import Run, of

TITLE = "Figure 4: users by warm and cold items"


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], table3.WHAT, seeds)


def make(results: Results) -> Section:
    return groups.section(results, TITLE, ("warm", "cold"))
