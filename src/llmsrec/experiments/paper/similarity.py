"""How much a shuffled history turns a user's vector: cosine of the two (paper, 2.3.3)."""

from llmsrec.evaluation.names import MODELS, OURS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.paper import table3
from llmsrec.experiments.results import Results, what_of
from llmsrec.experiments.runs import Run, of
from llmsrec.experiments.section import Claim, Section, verdict

TITLE = "Similarity of user vectors (2.3.3)"


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], table3.WHAT, seeds)


def make(results: Results) -> Section:
    cosines = {
        model: [
            results.metric(
                Run("original", what_of(model, "full"), seed),
                f"{'sasrec/' if model == 'sasrec' else ''}user_vectors/cosine_shuffled",
            )
            for seed in results.seeds
        ]
        for model in table3.PAPER
    }
    rows: list[tuple[str, ...]] = [
        (MODELS[model], ", ".join("-" if value is None else f"{value:.3f}" for value in values))
        for model, values in cosines.items()
    ]
    claims = []
    for model, values in cosines.items():
        if model in ("sasrec", OURS) or None in values or None in cosines[OURS]:
            continue
        apart = [float(theirs or 0) - float(ours or 0) for theirs, ours in zip(values, cosines[OURS], strict=True)]
        figure = ", ".join(f"{value:+.3f}" for value in apart)
        claims.append(
            Claim(
                f"a shuffle turns {MODELS[OURS]}'s vectors more than {MODELS[model]}'s",
                figure,
                verdict(min(apart), max(apart)),
            )
        )
    return Section(
        TITLE, [Table("Mean cosine of original and shuffled, a number a seed", ("", "cosine"), rows)], claims
    )
