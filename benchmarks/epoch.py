"""How much of an epoch on Beauty its ten checks take.

    python -m benchmarks.epoch --files data/beauty

The model of benchmarks/step.py (small) with the committed settings of `model` and `train`. Steps are timed on a
fraction of an epoch's batches, in the order in which training draws them, and extrapolated; a check is a whole one: all
items, `evaluate.validation_users` users, full and uni99. Both take turns.
"""

import itertools
import tempfile
from pathlib import Path

from benchmarks import common
from llmsrec.data import held_out
from llmsrec.engine.backbone import Backbone
from llmsrec.engine.prefix_store import Budget
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.training.loop import schedule
from llmsrec.training.retrieval import Validation, training_samples

STEPS = 20  # a repetition


def measure(folder: Path, cache: Path) -> common.Figures:
    """Seconds of an epoch's steps, of one check, and the share of the ten checks in the whole."""
    settings, names = common.settings(), common.titles(folder)
    language_model, tokenizer = common.language_model(names, common.SMALL)
    backbone = Backbone(language_model.model, tokenizer, True, language_model.config.max_position_embeddings)
    budget = Budget.gib(settings.backbone.prefixes, cache)
    model = LLMSRec(backbone, common.teacher(len(names)), names, settings.model, 0, budget)
    model.item_vectors()  # the first time fills the cache
    samples, lengths = training_samples(model, common.interactions(folder).drop_last(2), settings.train)
    validation = Validation.of(
        held_out.last(common.interactions(folder), held_out.BACK["valid"]),
        folder / "split/candidates.parquet",
        settings.evaluate.validation_users,
        settings.train.seed,
        settings.data.repeats,
    )
    batches = len(samples.users) / settings.train.batch_size
    draws = schedule(lengths, settings.train)

    def steps() -> None:
        common.run_steps(model, samples, itertools.islice(draws, STEPS), settings.model)

    figures = common.in_turn(
        {
            "an epoch's steps, s": lambda: common.timed(steps) * batches / STEPS,
            "a check, s": lambda: common.timed(lambda: validation.scores(model)),
        }
    )
    checks = settings.train.evaluations_per_epoch
    pairs = zip(figures["an epoch's steps, s"], figures["a check, s"], strict=True)
    figures[f"{checks} checks, % of the epoch"] = [100 * checks * b / (a + checks * b) for a, b in pairs]
    return figures


def main() -> None:
    chosen = common.arguments(__doc__).parse_args()
    print(common.machine(), flush=True)
    with common.data(chosen) as folder, tempfile.TemporaryDirectory() as cache:
        figures = measure(folder, Path(cache))
    common.show(figures)
    common.write(chosen.json, figures)


if __name__ == "__main__":
    main()
