"""Table 11: the prompt with SASRec's user vector in it (Table 2 c) against the prompt without (Table 2 b)."""

from llmsrec.evaluation.names import METRICS, OURS, PROTOCOLS, shown
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section, change, claim, level, note

TITLE = "Table 11: the user representation in the prompt"
PAPER = [  # uni99: with it, LLM-SRec
    ("Movies NDCG@10", "0.3625", "0.3560"),
    ("Scientific NDCG@10", "0.3342", "0.3388"),
    ("Electronics NDCG@10", "0.2924", "0.3044"),
    ("Movies HR@10", "0.5626", "0.5569"),
    ("Scientific HR@10", "0.5516", "0.5532"),
    ("Electronics HR@10", "0.4725", "0.4885"),
]


def runs(seeds: list[int]) -> list[Run]:
    return of(["user-representation", "original"], [MAIN], seeds)


def make(results: Results) -> Section:
    tables, claims, measures = [], [], results.measures
    for protocol in PROTOCOLS:
        rows = []
        for metric in METRICS:
            explicit, ours = (
                results.values(setting, OURS, "test", protocol, metric)
                for setting in ("user-representation", "original")
            )
            name = shown(metric)
            rows.append((name, level(explicit, measures), level(ours, measures), change(ours, explicit, measures)))
            if metric == "ndcg_10":
                claims.append(claim(f"{protocol} {name}: better without it in the prompt", ours, explicit, measures))
        head = ("", "with it", "LLM-SRec", "change")
        tables.append(Table(f"Test, {protocol}", head, rows, note(measures, results.seeds)))
    tables.append(Table("The paper's, on its own data", ("", "with it", "LLM-SRec"), list(PAPER)))
    return Section(TITLE, tables, claims)
