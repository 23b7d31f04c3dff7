"""Training a model that recommends by title: what a step minimises, what a check evaluates. The loop is `loop.fit`."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmsrec import distributed
from llmsrec.data import choices
from llmsrec.data.choices import Choices, Titles
from llmsrec.data.held_out import HeldOut
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.evaluation import choice, metrics
from llmsrec.models.llm.titles import TitleModel
from llmsrec.params import Train
from llmsrec.training.loop import MAPS, Curve, fit, one_after_the_other, only

MONITOR = "valid/uni19_mean_likelihood/hr_1"


@dataclass(frozen=True)
class Validation:
    """What a check during training evaluates.

    Attributes:
        histories: users' events before their valid item, numbered 1..n.
        choices: the 20 titles of each.
    """

    histories: Sequences
    choices: Choices

    @classmethod
    def of(cls, valid: HeldOut, drawn: Choices, at_most: int, seed: int) -> "Validation":
        """All users of the valid split with their stored titles, or a sample of `at_most` by `seed`."""
        rows = valid.rows(at_most, seed)
        return cls(valid.histories.of_users(rows + 1), drawn.rows(rows))

    def scores(self, model: TitleModel) -> dict[str, float]:
        """HR@1 by mean and by summed likelihood, under their names."""
        readings, places = model.read(self.histories, self.choices, write=False, label="valid"), self.choices.places
        scores = {"uni19_mean_likelihood": readings.mean, "uni19_likelihood": readings.summed}
        return {
            f"valid/{protocol}/hr_1": float(metrics.hr(choice.ranks(of, places), 1).mean())
            for protocol, of in scores.items()
        }


@dataclass(frozen=True)
class Samples:
    """The training events as choices: each user has a target an epoch, and 19 titles that they do not know beside it.

    Attributes:
        sequences: the training events.
        users: `[S]` those with two events or more.
        titles: the catalogue's.
        known: the titles that each user knows.
        every: whether any event but the first may be the target, drawn anew in each epoch; else it is the last.
        history: the most events before a target.
    """

    sequences: Sequences
    users: np.ndarray
    titles: Titles
    known: Sequences
    every: bool
    history: int

    @classmethod
    def of(cls, sequences: Sequences, titles: Titles, every: bool, history: int) -> "Samples":
        users = np.flatnonzero(sequences.lengths() >= 2)
        return cls(sequences, users, titles, titles.known(sequences), every, history)

    def draw(
        self, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, Choices]:
        """Items and times before the targets of some rows, these' places in `sequences.items`, and the choices."""
        users = self.users[rows]
        starts, ends = self.sequences.offsets[users], self.sequences.offsets[users + 1]
        places = starts + 1 + rng.integers(ends - starts - 1) if self.every else ends - 1
        spans = [slice(a, b) for a, b in zip(np.maximum(starts, places - self.history), places, strict=True)]
        positives = self.sequences.items[places]
        drawn = choices.draw(self.titles, self.known, users, positives, [rng] * 3)
        items, times = ([of[span] for span in spans] for of in (self.sequences.items, self.sequences.timestamps))
        return items, times, places, drawn

    def before(self, places: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
        """`[B, length]` the items before the targets, right-aligned and padded with 0, as the teacher takes them."""
        return self.sequences.preceding(self.users[rows], places, length)


def train(
    model: TitleModel,
    sequences: Sequences,
    titles: Titles,
    validation: Validation,
    settings: Train,
    resume: Path,
    schedule: str = "joint",
    on_check: Callable[[Curve], None] = lambda curve: None,
) -> Curve:
    """Train adapters and projections in place; they end as they were at the best check. See `loop.fit`.

    Args:
        sequences: train.parquet.
        settings: params.yaml's `train`. An epoch has a target of each user: of `targets: last` the last event, of `all`
            one that is drawn anew in each epoch.
        schedule: `joint`: all at once. `curriculum`: a step's prompts hold embeddings with a chance of the share of all
            steps that lie before it. `two_steps`: adapters on prompts of text alone, then f_I and f_U on whole ones.

    Raises:
        DataError: no training sequence has two events; see also `loop.fit`.
    """
    samples = Samples.of(sequences, titles, settings.targets == "all", model.prompts.history)
    if not len(samples.users):
        raise DataError("no training sequence has two events, so there is no next title to learn; lower `data.core`.")
    recent = [sequences.of(user)[0][-1 - model.prompts.history : -1] for user in samples.users.tolist()]
    lengths = model.prompts.lengths(recent, np.zeros((len(recent), 0), dtype=np.int64))
    lengths += int(model.prompts.title_sizes[1:].mean() * choices.COUNT)
    scores = partial(validation.scores, model)
    users, share = len(validation.choices.places), 0.0

    def at_step(before: float) -> None:
        nonlocal share
        share = before

    def losses(rows: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        with model.text_alone() if schedule == "curriculum" and rng.random() >= share else nullcontext():
            return step_losses(model, samples, rows, rng)

    def fitted(folder: Path) -> Curve:
        trained = model.trainable()
        return fit(trained, lengths, losses, scores, settings, MONITOR, users, folder, on_check, at_step)

    if schedule != "two_steps":
        return fitted(resume)
    with only(model.trainable(), lambda name: not name.startswith(MAPS)), model.text_alone():
        first = fitted(resume / "text")
    with only(model.trainable(), lambda name: name.startswith(MAPS)):
        return one_after_the_other(first, fitted(resume / "maps"))


def step_losses(model: TitleModel, samples: Samples, rows: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    """Eq. 5 for a batch of rows of `samples`; of several processes, each one's part of the mean over the batch."""
    model.train()
    items, times, places, drawn = samples.draw(rows, rng)
    own = distributed.stretch(len(rows))
    idle = own.start == own.stop
    if idle:  # it computes something all the same, so that each parameter has a gradient
        own = slice(0, 1)
    seen = None
    if model.prompts.settings.user_representation:
        before = samples.before(places[own], rows[own], model.teacher.max_length)
        with torch.no_grad():
            seen = model.teacher.last(torch.from_numpy(before).to(model.device))
    loss = model.loss((items[own], times[own]), seen, Choices(drawn.items[own], drawn.places[own]))
    share = _tokens(model, drawn.rows(np.arange(len(rows))[own])) / _tokens(model, drawn)
    return {"title": loss * (0.0 if idle else share)}


def _tokens(model: TitleModel, drawn: Choices) -> int:
    positives = np.take_along_axis(drawn.items, drawn.places[:, None], axis=1)
    return int((model.prompts.title_sizes[positives] + 1).sum())
