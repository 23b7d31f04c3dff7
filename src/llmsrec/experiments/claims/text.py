"""A SASRec that knows the titles, too, the strongest teacher there is: what it teaches, and the blends, against it."""

from llmsrec.experiments.claims import sides
from llmsrec.experiments.claims.sides import LLM_SREC, TEACHER, Side
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section

TITLE = "A teacher that reads titles"
READS, BLEND = "text-teacher", "tower_blend"


def runs(seeds: list[int]) -> list[Run]:
    return of(["original", READS], [MAIN], seeds)


def make(results: Results) -> Section:
    reader = Side(READS, "sasrec", f"{TEACHER} of titles and ids")
    rivals = [
        Side(READS, "llm_srec", f"the {LLM_SREC} that it teaches"),
        Side(READS, BLEND, "the blend of both"),
        Side("original", BLEND, f"the blend of {LLM_SREC} and {TEACHER} of ids"),
    ]
    return sides.section(results, TITLE, [(rival, reader) for rival in rivals])
