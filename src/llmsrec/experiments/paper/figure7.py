"""Figure 7: validation while training on original and on shuffled sequences.

Of several seeds their mean where all were checked, and from the lowest to the highest.
"""

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from llmsrec.evaluation.names import MODELS
from llmsrec.evaluation.plots import STYLE, label
from llmsrec.experiments.paper import order, table3
from llmsrec.experiments.results import Results, what_of
from llmsrec.experiments.runs import Run, of
from llmsrec.experiments.section import Section

TITLE = "Figure 7: learning curves"
CURVE = "check/valid/uni99/ndcg_10"
SHOWN = ("tallrec", "llara", "collm", "a_llmrec", "llm_srec")


def runs(seeds: list[int]) -> list[Run]:
    return of(order.ORDERS, table3.WHAT, seeds)


def make(results: Results) -> Section:
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(12, 3.2), layout="constrained")
        for axes, model in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN, strict=True):
            for setting, line in zip(order.ORDERS, ("-", "--"), strict=True):
                what = what_of(model, "uni99")
                curves = [dict(results.curve(Run(setting, what, seed), CURVE)) for seed in results.seeds]
                steps = sorted(set.intersection(*map(set, curves)))
                if steps:
                    values = np.array([[curve[step] for step in steps] for curve in curves])
                    axes.plot(steps, values.mean(axis=0), line, label=setting)
                    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), alpha=0.2)
            label(axes, MODELS[model], "step", "validation NDCG@10, uni99" if model == SHOWN[0] else "")
            axes.legend(loc="lower right", fontsize=8)
    return Section(TITLE, pictures={"curves": figure})
