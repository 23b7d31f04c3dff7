"""The tower `blend` against the two that it joins, `llm` and `teacher`; its weight is fitted on validation."""

from llmsrec.evaluation.names import PROTOCOLS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Claim, Section, verdict

TITLE = "The blend of both towers"
TOWERS = ("blend", "llm", "teacher")


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], [MAIN], seeds)


def make(results: Results) -> Section:
    """The intervals are those of each run's `evaluate`; of several seeds all must agree."""
    towers = [results.towers(Run("original", MAIN, seed)) for seed in results.seeds]
    tables, claims = [], []
    for protocol in PROTOCOLS:
        rows = [
            (tower, *(f"{score['mean']:.4f} ({score['low']:.4f} .. {score['high']:.4f})" for score in of_tower))
            for tower in TOWERS
            for of_tower in [[run["ndcg_10"][tower][protocol] for run in towers]]
        ]
        head = ("", *(f"seed {seed}" for seed in results.seeds))
        tables.append(Table(f"Test NDCG@10, {protocol}", head, rows, "In brackets: 95 % bootstrap over users."))
        minus = {
            "llm": [run["blend_minus_llm"][protocol] for run in towers],
            "teacher": [run["minus_teacher"]["blend"][protocol] for run in towers],
        }
        for tower, of_seeds in minus.items():
            figure = ", ".join(
                f"{interval['difference']:+.4f} ({interval['low']:+.4f} .. {interval['high']:+.4f})"
                for interval in of_seeds
            )
            agreed = verdict(
                min(interval["low"] for interval in of_seeds), max(interval["high"] for interval in of_seeds)
            )
            claims.append(Claim(f"{protocol}: blend is better than {tower}", figure, agreed))
    return Section(TITLE, tables, claims)
