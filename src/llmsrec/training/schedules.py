"""In which order a system's parts are trained: all at once, or as LLaRA's and CoLLM's authors do.

Each takes what `training.retrieval.train` takes and returns its curve.
"""

from pathlib import Path

import numpy as np
from torch import Tensor

from llmsrec.data.sequences import Sequences
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.params import Model, Train
from llmsrec.training.batches import Samples
from llmsrec.training.loop import MAPS, Curve, one_after_the_other, only
from llmsrec.training.retrieval import Validation, step_losses, train


def joint(
    model: LLMSRec, sequences: Sequences, valid: Validation, settings: Model, given: Train, resume: Path
) -> Curve:
    """All that is trained, at once (LLM-SRec paper, Sec. 2.1.2)."""
    return train(model, sequences, valid, settings, given, resume)


def curriculum(
    model: LLMSRec, sequences: Sequences, valid: Validation, settings: Model, given: Train, resume: Path
) -> Curve:
    """From text to embeddings (LLaRA's "curriculum prompt tuning"): a step's prompts hold embeddings with a chance of
    the share of all steps that lie before it, and are else of text alone. Checks are by whole prompts.
    """
    share = 0.0

    def at_step(before: float) -> None:
        nonlocal share
        share = before

    def losses_of(
        trained: LLMSRec, samples: Samples, rows: np.ndarray, of: Model, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        if rng.random() < share:
            return step_losses(trained, samples, rows, of, rng)
        with trained.text_alone():
            return step_losses(trained, samples, rows, of, rng)

    return train(model, sequences, valid, settings, given, resume, losses_of=losses_of, at_step=at_step)


def two_steps(
    model: LLMSRec, sequences: Sequences, valid: Validation, settings: Model, given: Train, resume: Path
) -> Curve:
    """Text first (CoLLM's "two-step tuning"): adapters, heads and tokens learn from prompts of text alone; then these
    stay as they are and f_I and f_U learn from whole prompts. Each step is as long as `given` says.
    """
    with only(model.trainable(), lambda name: not name.startswith(MAPS)), model.text_alone():
        first = train(model, sequences, valid, settings, given, resume / "text")
    with only(model.trainable(), lambda name: name.startswith(MAPS)):
        second = train(model, sequences, valid, settings, given, resume / "maps", warm=True)
    return one_after_the_other(first, second)


SCHEDULES = {"joint": joint, "curriculum": curriculum, "two_steps": two_steps}
