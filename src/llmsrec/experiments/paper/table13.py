"""Table 13: how far apart user vectors are, with and without the uniformity loss (Eq. 3)."""

import numpy as np

from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Claim, Section, verdict

TITLE = "Table 13: distance between users"
ROWS = {"no-uniform": "without uniformity", "original": "LLM-SRec"}
PAPER = [("without uniformity", "7.69", "7.78", "8.03", "9.82"), ("LLM-SRec", "9.33", "11.54", "13.81", "11.68")]
DISTANCE = "user_vectors/distance"


def runs(seeds: list[int]) -> list[Run]:
    return of(ROWS, [MAIN], seeds)


def make(results: Results) -> Section:
    distances = {
        setting: np.array([results.metric(Run(setting, MAIN, seed), DISTANCE) for seed in results.seeds], dtype=float)
        for setting in ROWS
    }
    rows: list[tuple[str, ...]] = [(title, ", ".join(f"{d:.2f}" for d in distances[s])) for s, title in ROWS.items()]
    apart = distances["original"] - distances["no-uniform"]
    # One number a training: seeds are all the repetitions that there are.
    figure = ", ".join(f"{d:+.2f}" for d in apart)
    head = ("", "Movies", "Scientific", "Electronics", "CDs")
    return Section(
        TITLE,
        [
            Table("Mean distance over pairs of users, a number a seed", ("", "distance"), rows),
            Table("The paper's, on its own data", head, list(PAPER)),
        ],
        [Claim("uniformity puts users further apart (all seeds)", figure, verdict(apart.min(), apart.max()))],
    )
