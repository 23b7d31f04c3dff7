"""What pre-training is worth: the language model of params.yaml, the same with random weights, and the embedded one.

Random weights are made first, by `python -m benchmarks.random_backbone`.
"""

import numpy as np

from llmsrec.experiments.claims import sides
from llmsrec.experiments.claims.sides import Side
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section

TITLE = "Pre-training"
READ = {
    "original": "the language model of params.yaml",
    "random-backbone": "the same with random weights",
    "embedded-backbone": "the embedded one",
}


def runs(seeds: list[int]) -> list[Run]:
    return of(READ, [MAIN], seeds)


def make(results: Results) -> Section:
    ours, *others = (Side(setting, "llm_srec", title) for setting, title in READ.items())
    read = ours.values(results, "full", sides.METRIC)
    # Where params.yaml names the embedded model, that is the same run and no comparison.
    others = [other for other in others if not np.array_equal(other.values(results, "full", sides.METRIC), read)]
    return sides.section(results, TITLE, [(ours, other) for other in others])
