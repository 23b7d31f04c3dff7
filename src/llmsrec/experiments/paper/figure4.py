"""Figure 4: users by warm and cold items (paper, 4.1)."""

from llmsrec.experiments.paper import groups, table3
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import Run, of
from llmsrec.experiments.section import Section

TITLE = "Figure 4: users by warm and cold items"


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], table3.WHAT, seeds)


def make(results: Results) -> Section:
    return groups.section(results, TITLE, ("warm", "cold"))
