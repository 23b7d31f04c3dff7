"""The last item alone as target, or every item (paper, F.5)."""

from llmsrec.experiments.claims import sides
from llmsrec.experiments.claims.sides import Side
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section

TITLE = "Targets at every position"
ROWS = {"original": "all targets", "last-target": "the last target"}


def runs(seeds: list[int]) -> list[Run]:
    return of(ROWS, [MAIN], seeds)


def make(results: Results) -> Section:
    ours, theirs = (Side(setting, "llm_srec", title) for setting, title in ROWS.items())
    return sides.section(results, TITLE, [(ours, theirs)])
