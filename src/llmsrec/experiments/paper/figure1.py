"""Figure 1: NDCG@10 on original and on shuffled histories of test (paper, 2.3.2)."""

from matplotlib import style
from matplotlib.figure import Figure

from llmsrec.evaluation.names import MODELS, OURS, PROTOCOLS
from llmsrec.evaluation.plots import STYLE, label
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.paper import table3
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import Run, of
from llmsrec.experiments.section import Section, change, claim_of_change, level, note

TITLE = "Figure 1: shuffled inference"


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], table3.WHAT, seeds)


def make(results: Results) -> Section:
    tables, claims = [], []
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axes, protocol in zip(figure.subplots(1, 2), PROTOCOLS, strict=True):
            pairs = {model: results.pair("original", model, protocol, "ndcg_10") for model in table3.PAPER}
            for model, (original, shuffled) in pairs.items():
                axes.plot(original.mean(), shuffled.mean(), "o", label=MODELS[model])
            most = max(original.mean() for original, _ in pairs.values()) * 1.1
            axes.plot([0, most], [0, most], "--", color="#8c8c8c", linewidth=1)
            label(axes, protocol, "original, NDCG@10", "shuffled, NDCG@10")
            axes.legend(loc="upper left", fontsize=8)
            rows = [
                (MODELS[m], level(a, results.measures), level(b, results.measures), change(b, a, results.measures))
                for m, (a, b) in pairs.items()
            ]
            head = ("", "original", "shuffled", "change")
            tables.append(Table(f"Test NDCG@10, {protocol}", head, rows, note(results.measures, results.seeds)))
            claims += [
                claim_of_change(
                    f"{protocol}: shuffled histories cost {MODELS[OURS]} more than {MODELS[model]}",
                    pairs[OURS], pairs[model], results.measures,
                )
                for model in table3.PAPER
                if model not in (OURS, "sasrec")
            ]  # fmt: skip
    return Section(TITLE, tables, claims, {"shuffled": figure})
