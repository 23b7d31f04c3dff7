"""Table 4: titles by models that were trained on original and on shuffled sequences (paper, 2.3.1)."""

from llmsrec.experiments.paper import order
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import Run, of
from llmsrec.experiments.section import Section

TITLE = "Table 4: shuffled training, titles"
PAPER: order.Published = {  # HR@1; cells of LLaRA and CoLLM as printed, some of which are the same
    "sasrec": ((0.3171, 0.2821), (0.2390, 0.2158), (0.3662, 0.3386)),
    "tallrec": ((0.2221, 0.2181), (0.1787, 0.1815), (0.2589, 0.2728)),
    "llara": ((0.3022, 0.2996), (0.2616, 0.2650), (0.3142, 0.3530)),
    "collm": ((0.3010, 0.3165), (0.2616, 0.2323), (0.3142, 0.3763)),
    "a_llmrec": ((0.2804, 0.2796), (0.2672, 0.2684), (0.3319, 0.3528)),
}
READINGS = {
    "Test HR@1 by mean likelihood, uni19": ("uni19_mean_likelihood", "hr_1"),
    "Test HR@1 by likelihood, uni19": ("uni19_likelihood", "hr_1"),
}


def runs(seeds: list[int]) -> list[Run]:
    return of(order.ORDERS, [f"{model}-titles" for model in PAPER if model != "sasrec"], seeds)


def make(results: Results) -> Section:
    return order.section(results, TITLE, READINGS, PAPER, "sasrec")
