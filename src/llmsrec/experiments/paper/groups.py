"""Models on two groups of users: Figures 3 and 4."""

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from llmsrec.evaluation.names import MODELS, OURS, PROTOCOLS
from llmsrec.evaluation.plots import STYLE, label
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.section import Section, claim, level, note

SHOWN = ("sasrec", "tallrec", "llara", "collm", "a_llmrec", "llm_srec")


def section(results: Results, title: str, names: tuple[str, str]) -> Section:
    """NDCG@10 of each model in each of two groups, and whether LLM-SRec is the better one there."""
    members = {name: results.slices()[name].to_numpy() for name in names}
    tables, claims = [], []
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axes, protocol in zip(figure.subplots(1, 2), PROTOCOLS, strict=True):
            values = {m: results.values("original", m, "test", protocol, "ndcg_10") for m in SHOWN}
            for place, name in enumerate(names):
                means = [values[m][:, members[name]].mean() for m in SHOWN]
                axes.bar(np.arange(len(SHOWN)) + 0.4 * (place - 0.5), means, 0.38, label=name.replace("_", "-"))
            axes.set_xticks(range(len(SHOWN)), [MODELS[m] for m in SHOWN], fontsize=8)
            label(axes, protocol, "", "NDCG@10")
            rows = [
                (MODELS[m], *(level(values[m][:, members[name]], results.measures) for name in names)) for m in SHOWN
            ]
            head = ("", *(f"{name.replace('_', '-')} ({members[name].sum():,})" for name in names))
            tables.append(Table(f"Test NDCG@10, {protocol}", head, rows, note(results.measures, results.seeds)))
            claims += [
                claim(
                    f"{protocol}, {name.replace('_', '-')}: {MODELS[OURS]} is better than {MODELS[m]}",
                    values[OURS][:, members[name]], values[m][:, members[name]], results.measures,
                )
                for name in names
                for m in SHOWN
                if m != OURS
            ]  # fmt: skip
    return Section(title, tables, claims, {"groups": figure})
