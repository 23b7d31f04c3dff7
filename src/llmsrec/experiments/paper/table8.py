"""Table 8: trained on one data set and asked about the users of another, whose items nobody has met (paper, 4.1.4)."""

import numpy as np

from llmsrec.evaluation.names import MODELS, OURS, PROTOCOLS, shown
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.paper import table3
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import CROSS, Run, of
from llmsrec.experiments.section import Section, claim, level, note

TITLE = "Table 8: other data"
METRICS = ("hr_10", "ndcg_10")
FIRST = 10
PAPER = {  # uni99 HR@10 on Scientific and CDs, trained on Electronics
    "sasrec": (0.1002, 0.0974),
    "tallrec": (0.1214, 0.1132),
    "llara": (0.1225, 0.1174),
    "collm": (0.1232, 0.1152),
    "a_llmrec": (0.1262, 0.1217),
    "llm_srec": (0.1310, 0.1369),
}


def runs(seeds: list[int]) -> list[Run]:
    return of([CROSS], table3.WHAT, seeds)


def make(results: Results) -> Section:
    """SASRec has nothing to tell unknown items apart by: its row in the paper is chance, and here chance is stated."""
    tables, claims, measures = [], [], results.measures
    asked = [model for model in PAPER if model != "sasrec"]
    chance = FIRST / (measures.negatives + 1)
    for protocol in PROTOCOLS:
        values = {m: {k: results.values(CROSS, m, "test", protocol, k) for k in METRICS} for m in asked}
        rows = [(MODELS[m], *(level(of_metric, measures) for of_metric in values[m].values())) for m in asked]
        said = note(measures, results.seeds, f"By chance HR@{FIRST} is {chance:.4f}." if protocol == "uni99" else "")
        tables.append(Table(f"Test of the other data, {protocol}", ("", *map(shown, METRICS)), rows, said))
        hits = {m: of_model["hr_10"] for m, of_model in values.items()}
        ours = hits.pop(OURS)
        if protocol == "uni99":
            text = f"{protocol} HR@{FIRST}: {MODELS[OURS]} is better than chance, all that SASRec has"
            claims.append(claim(text, ours, np.full_like(ours, chance, dtype=float), measures))
        claims += [
            claim(f"{protocol} HR@{FIRST}: {MODELS[OURS]} is better than {MODELS[m]}", ours, theirs, measures)
            for m, theirs in hits.items()
        ]
    head = ("", "Electronics to Scientific", "Electronics to CDs")
    published: list[tuple[str, ...]] = [(MODELS[m], *(f"{v:.4f}" for v in values)) for m, values in PAPER.items()]
    tables.append(Table("The paper's HR@10 (uni99), on its own data", head, published))
    return Section(TITLE, tables, claims)
