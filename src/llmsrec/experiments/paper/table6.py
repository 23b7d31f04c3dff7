"""Table 6: all eleven systems."""

from llmsrec import systems
from llmsrec.evaluation.names import METRICS, MODELS, OURS, PROTOCOLS, shown
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section, claim, level, note

TITLE = "Table 6: all systems"
DATA = ("Movies", "Scientific", "Electronics", "CDs")
PAPER = {  # uni99 NDCG@10 of each of `DATA`
    "gru4rec": (0.3152, 0.2642, 0.2364, 0.2155),
    "bert4rec": (0.2959, 0.2576, 0.1867, 0.3019),
    "nextitnet": (0.2538, 0.2263, 0.1712, 0.2207),
    "sasrec": (0.3459, 0.2918, 0.2267, 0.3451),
    "ctrl": (0.2785, 0.2152, 0.1680, 0.2968),
    "recformer": (0.2068, 0.2907, 0.2032, 0.3238),
    "tallrec": (0.1668, 0.2585, 0.2249, 0.3100),
    "llara": (0.1522, 0.2844, 0.2048, 0.2464),
    "collm": (0.3223, 0.3111, 0.2565, 0.3152),
    "a_llmrec": (0.3263, 0.2875, 0.2791, 0.3119),
    "llm_srec": (0.3560, 0.3388, 0.3044, 0.3809),
}


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], [MAIN, *(name for name in systems.names() if name.endswith("-retrieval"))], seeds)


def make(results: Results) -> Section:
    tables, claims = [], []
    for protocol in PROTOCOLS:
        values = {
            model: {metric: results.values("original", model, "test", protocol, metric) for metric in METRICS}
            for model in PAPER
        }
        rows = [(MODELS[model], *(level(values[model][m], results.measures) for m in METRICS)) for model in PAPER]
        head = ("", *(shown(metric) for metric in METRICS))
        tables.append(Table(f"Test, {protocol}", head, rows, note(results.measures, results.seeds)))
        claims += [
            claim(
                f"{protocol} NDCG@10: {MODELS[OURS]} is better than {MODELS[model]}",
                values[OURS]["ndcg_10"], values[model]["ndcg_10"], results.measures,
            )
            for model in PAPER
            if model != OURS
        ]  # fmt: skip
    published: list[tuple[str, ...]] = [(MODELS[m], *(f"{v:.4f}" for v in values)) for m, values in PAPER.items()]
    tables.append(Table("The paper's NDCG@10 (uni99), on its own data", ("", *DATA), published))
    return Section(TITLE, tables, claims)
