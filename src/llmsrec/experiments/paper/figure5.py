"""Figure 5: a smaller and a larger language model (the embedded one, of other widths)."""

from llmsrec.evaluation.names import MODELS, PROTOCOLS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section, claim, level, note

TITLE = "Figure 5: the size of the language model"
SIZES = {"small-backbone": "width 64", "original": "as committed", "large-backbone": "width 256"}
SHOWN = ("collm", "llm_srec")
WHAT = (MAIN, "collm-retrieval")


def runs(seeds: list[int]) -> list[Run]:
    return of(SIZES, WHAT, seeds)


def make(results: Results) -> Section:
    tables, claims = [], []
    for protocol in PROTOCOLS:
        values = {(m, s): results.values(s, m, "test", protocol, "ndcg_10") for m in SHOWN for s in SIZES}
        rows = [(MODELS[m], *(level(values[m, s], results.measures) for s in SIZES)) for m in SHOWN]
        said = note(results.measures, results.seeds)
        tables.append(Table(f"Test NDCG@10, {protocol}", ("", *SIZES.values()), rows, said))
        small, large = "small-backbone", "large-backbone"
        claims += [
            claim(f"{protocol}: {MODELS[m]} is better with the larger one", values[m, large], values[m, small],
                  results.measures)
            for m in SHOWN
        ]  # fmt: skip
        claims.append(
            claim(f"{protocol}: LLM-SRec with the small one beats CoLLM with the large one", values["llm_srec", small],
                  values["collm", large], results.measures)
        )  # fmt: skip
    return Section(TITLE, tables, claims)
