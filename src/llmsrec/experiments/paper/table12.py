"""Table 12: distillation by Eq. 10 (contrastive) against Eq. 2 (MSE)."""

from llmsrec.evaluation.names import OURS, PROTOCOLS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.paper import variants
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section, claim

TITLE = "Table 12: how to distil"
ROWS = {"contrastive": "contrastive (Eq. 10)", "original": "LLM-SRec, MSE (Eq. 2)"}
PAPER = [  # NDCG@10: Movies, Scientific, Electronics
    ("contrastive, original", "0.3410", "0.2767", "0.2553"),
    ("contrastive, shuffled", "0.3151", "0.2638", "0.2398"),
    ("MSE, original", "0.3560", "0.3388", "0.3044"),
    ("MSE, shuffled", "0.3272", "0.3232", "0.2845"),
]


def runs(seeds: list[int]) -> list[Run]:
    return of(ROWS, [MAIN], seeds)


def make(results: Results) -> Section:
    tables = variants.tables(results, ROWS)
    tables.append(Table("The paper's NDCG@10 (uni99)", ("", "Movies", "Scientific", "Electronics"), list(PAPER)))
    claims = [
        claim(
            f"{protocol} NDCG@10: MSE is better than contrastive",
            results.values("original", OURS, "test", protocol, "ndcg_10"),
            results.values("contrastive", OURS, "test", protocol, "ndcg_10"),
            results.measures,
        )
        for protocol in PROTOCOLS
    ]
    return Section(TITLE, tables, claims)
