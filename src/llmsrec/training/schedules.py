"""In which order a system's parts are trained: all at once, or as LLaRA's and CoLLM's authors do.

Each takes what `training.retrieval.train` takes and returns its curve.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from torch import Tensor

from llmsrec.data.sequences import Sequences
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.params import Model, Train
from llmsrec.training import checkpoint
from llmsrec.training.batches import Samples
from llmsrec.training.loop import MAPS, Curve, one_after_the_other, only
from llmsrec.training.remembered import RememberedHeads, losses_of, remember
from llmsrec.training.retrieval import Validation, step_losses, train

HEADS = ("f_user.", "f_item.", "f_cf_user.")
# What differs from params.yaml's `train` while heads are trained by themselves (docs/experiments.md).
ALONE = {"epochs": 12, "evaluations_per_epoch": 1, "batch_size": 100, "lr": 0.001, "lr_decay": 0.7}


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

    def losses_at(
        trained: LLMSRec, samples: Samples, rows: np.ndarray, of: Model, rng: np.random.Generator, table: Tensor | None
    ) -> dict[str, Tensor]:
        with nullcontext() if rng.random() < share else trained.text_alone():
            return step_losses(trained, samples, rows, of, rng, table)

    return train(model, sequences, valid, settings, given, resume, losses_of=losses_at, at_step=at_step)


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


def heads_first(
    model: LLMSRec,
    sequences: Sequences,
    valid: Validation,
    settings: Model,
    given: Train,
    resume: Path,
    on_check: Callable[[Curve], None] = lambda curve: None,
) -> Curve:
    """`train.start: heads`: f_user, f_item and f_CF-user by themselves, then all that is trained, from there.

    Returns the curve of the latter.
    """
    train_heads(model, sequences, valid, settings, given, resume)
    return train(model, sequences, valid, settings, given, resume, on_check, warm=True, check_first=True)


def train_heads(
    model: LLMSRec, sequences: Sequences, valid: Validation, settings: Model, given: Train, resume: Path
) -> None:
    """Train f_user, f_item and f_CF-user of a new model in place, on what its language model says at first.

    That is computed once, so that an epoch takes seconds, and the softmax is over the whole catalogue. f_I and f_U get
    first values whose outputs are of the size of words, and stay as they are.

    Args:
        given: params.yaml's `train`, of which `ALONE` is other.
        resume: for the state that a killed run goes on from, and for the outputs, which are removed at the end. Its
            name stands for all that decides them.

    Raises:
        DataError: the outputs do not fit on the disk; see also `loop.fit`.
    """
    model.start_inputs_at_the_size_of_words()
    heads = {name: values.detach() for name, values in model.trainable().items() if name.startswith(HEADS)}
    folder = resume / "heads"
    outputs, done = folder / "outputs.safetensors", folder / "trained.safetensors"
    if (trained := checkpoint.load(done, heads)) is None:
        remembered = remember(outputs, resume.name, lambda: model, sequences, valid, given)
        alone = RememberedHeads(remembered, model.prompts, model.teacher, settings, given.seed)
        of = settings.model_copy(update={"negatives": "all"})
        train(alone, sequences, valid, of, given.model_copy(update=ALONE), folder, losses_of=losses_of)
        trained = {name: values.detach() for name, values in alone.trainable().items()}, {}
        checkpoint.save(done, *trained)
        outputs.unlink(missing_ok=True)
    for name, values in heads.items():
        values.copy_(trained[0][name])


SCHEDULES = {"joint": joint, "curriculum": curriculum, "two_steps": two_steps}
