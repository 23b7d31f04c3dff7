"""Figure 8: the last item alone as target, or every item (F.5)."""

from llmsrec.evaluation.names import MODELS, PROTOCOLS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section, claim, level, note

TITLE = "Figure 8: targets at every position"
ROWS = {"last-target": "last", "original": "all", "last-target-shuffled": "last, shuffled", "shuffled": "all, shuffled"}
SHOWN = ("tallrec", "collm", "llm_srec")
WHAT = (MAIN, "tallrec-retrieval", "collm-retrieval")


def runs(seeds: list[int]) -> list[Run]:
    return of(ROWS, WHAT, seeds)


def make(results: Results) -> Section:
    tables, claims = [], []
    for protocol in PROTOCOLS:
        values = {(m, s): results.values(s, m, "test", protocol, "ndcg_10") for m in SHOWN for s in ROWS}
        rows = [(MODELS[m], *(level(values[m, s], results.measures) for s in ROWS)) for m in SHOWN]
        said = note(results.measures, results.seeds, "Shuffled: the training sequences.")
        tables.append(Table(f"Test NDCG@10, {protocol}", ("trained on", *ROWS.values()), rows, said))
        claims += [
            claim(
                f"{protocol}: {MODELS[m]} is better with all targets",
                values[m, "original"], values[m, "last-target"], results.measures,
            )
            for m in SHOWN
        ]  # fmt: skip
    return Section(TITLE, tables, claims)
