"""LLM-SRec with and without distillation and uniformity, on original and on shuffled histories (Table 7)."""

from llmsrec.experiments.paper import table7
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section

TITLE = "Distillation and uniformity"
ROWS = {name: table7.ROWS[name] for name in ("retrieval-only", "original")}


def runs(seeds: list[int]) -> list[Run]:
    return of(ROWS, [MAIN], seeds)


def make(results: Results) -> Section:
    return table7.section(results, TITLE, ROWS)
