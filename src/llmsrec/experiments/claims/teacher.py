"""LLM-SRec beside the SASRec that teaches it: the one of params.yaml, and the paper's with its binary cross-entropy."""

from llmsrec.experiments.claims import sides
from llmsrec.experiments.claims.sides import LLM_SREC, TEACHER, Side
from llmsrec.experiments.paper import table6
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section

TITLE = "LLM-SRec against its teacher"
TAUGHT = {"original": "", "bce-teacher": ", binary cross-entropy"}


def runs(seeds: list[int]) -> list[Run]:
    return of(TAUGHT, [MAIN], seeds)


def make(results: Results) -> Section:
    pairs = [
        (Side(setting, "llm_srec", f"{LLM_SREC}{what}"), Side(setting, "sasrec", f"{TEACHER}{what}"))
        for setting, what in TAUGHT.items()
    ]
    published = {title: table6.PAPER[model] for model, title in (("llm_srec", LLM_SREC), ("sasrec", TEACHER))}
    return sides.section(results, TITLE, pairs, sides.of_paper(published, table6.DATA))
