"""What the order of events is worth: histories of test shuffled, and training sequences shuffled (paper, 2.3)."""

from llmsrec.evaluation.names import MODELS, PROTOCOLS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.claims.sides import LLM_SREC, METRIC
from llmsrec.experiments.paper import table3
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section, change, claim, level, note

TITLE = "Order"
SHOWN = ("llm_srec", "sasrec")
SHUFFLED = {"shuffled histories": ("original", "test_shuffled"), "shuffled training": ("shuffled", "test")}


def runs(seeds: list[int]) -> list[Run]:
    return of(["original", "shuffled"], [MAIN], seeds)


def make(results: Results) -> Section:
    tables, claims = [], []
    for protocol in PROTOCOLS:
        rows: list[tuple[str, ...]] = []
        for model in SHOWN:
            base = results.values("original", model, "test", protocol, METRIC)
            rows.append((MODELS[model], level(base, results.measures), ""))
            for what, (setting, split) in SHUFFLED.items():
                values = results.values(setting, model, split, protocol, METRIC)
                row = (f"{MODELS[model]}, {what}", level(values, results.measures))
                rows.append((*row, change(values, base, results.measures)))
                if model == "llm_srec":
                    claims.append(
                        claim(f"{protocol}: {what} cost {LLM_SREC} something", base, values, results.measures)
                    )
        said = note(results.measures, results.seeds)
        tables.append(Table(f"Test NDCG@10, {protocol}", ("", "NDCG@10", "change"), rows, said))
    published: list[tuple[str, ...]] = [
        (MODELS[model], *(f"{before:.4f}, {after:.4f}" for before, after in table3.PAPER[model])) for model in SHOWN
    ]
    head = ("original, shuffled training", "Scientific", "Electronics", "CDs")
    tables.append(Table("The paper's NDCG@10 (uni99), on its own data", head, published))
    return Section(TITLE, tables, claims)
