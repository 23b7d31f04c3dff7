"""Table 7: LLM-SRec without its losses; beside the paper's shuffled inference, shuffled training (2.3.1)."""

from llmsrec.evaluation.names import OURS, PROTOCOLS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.paper import variants
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section, claim, claim_of_change

TITLE = "Table 7: the losses"
ROWS = {
    "retrieval-only": "(a) without distillation and uniformity",
    "no-uniform": "(b) without uniformity",
    "original": "(c) LLM-SRec",
}
SHUFFLED = {"retrieval-only": "retrieval-only-shuffled", "no-uniform": "no-uniform-shuffled", "original": "shuffled"}
PAPER = [  # NDCG@10: Movies, Scientific, Electronics, CDs
    ("(a) original", "0.3204", "0.3088", "0.2659", "0.2278"),
    ("(a) shuffled", "0.3176", "0.3013", "0.2589", "0.2224"),
    ("(b) original", "0.3339", "0.3283", "0.2895", "0.3622"),
    ("(b) shuffled", "0.3089", "0.3164", "0.2732", "0.3478"),
    ("(c) original", "0.3560", "0.3388", "0.3044", "0.3809"),
    ("(c) shuffled", "0.3263", "0.3224", "0.2838", "0.3614"),
]


def runs(seeds: list[int]) -> list[Run]:
    return of([*ROWS, *SHUFFLED.values()], [MAIN], seeds)


def make(results: Results) -> Section:
    return section(results, TITLE, ROWS, SHUFFLED)


def section(
    results: Results, title: str, rows: dict[str, str], shuffled_training: dict[str, str] | None = None
) -> Section:
    """The last of `rows`, LLM-SRec with all losses, beside the others.

    Args:
        rows: settings of `ROWS`.
        shuffled_training: see `variants.tables`.
    """
    tables = variants.tables(results, rows, shuffled_training)
    head = ("", "Movies", "Scientific", "Electronics", "CDs")
    tables.append(Table("The paper's NDCG@10 (uni99), on its own data; shuffled inference", head, list(PAPER)))
    claims = []
    for protocol in PROTOCOLS:
        pairs = {row: results.pair(row, OURS, protocol, "ndcg_10") for row in rows}
        full = pairs["original"]
        for row in reversed([row for row in rows if row != "original"]):
            name = ROWS[row][:3]
            claims.append(claim(f"{protocol}: (c) is better than {name}", full[0], pairs[row][0], results.measures))
            claims.append(
                claim_of_change(
                    f"{protocol}: shuffled histories cost (c) more than {name}", full, pairs[row], results.measures
                )
            )
    return Section(title, tables, claims)
