"""Training LLM-SRec: what a step minimises and what a check evaluates. The loop itself is `loop.fit`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.data import candidates
from llmsrec.data.held_out import HeldOut
from llmsrec.data.sequences import Sequences
from llmsrec.evaluation import metrics, ranks
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.heads import standardise
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.models.losses import retrieval as losses
from llmsrec.params import Model, Train
from llmsrec.progress import Progress
from llmsrec.prompts.retrieval import Prompts
from llmsrec.training.batches import Samples
from llmsrec.training.loop import Curve, fit

MEASURED = 256  # samples, and items, whose hidden states say how the heads start
StepLosses = Callable[[Any, Samples, np.ndarray, Model, np.random.Generator, Tensor | None], dict[str, Tensor]]


class Trainee(Protocol):
    """What training needs of a model: an `LLMSRec`, or heads over the remembered outputs of one."""

    @property
    def prompts(self) -> Prompts: ...
    @property
    def teacher(self) -> Teacher: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def f_user(self) -> nn.Module: ...
    @property
    def f_item(self) -> nn.Module: ...
    @property
    def f_cf_user(self) -> nn.Module: ...
    def train(self) -> Any: ...
    def trainable(self) -> dict[str, nn.Parameter]: ...
    def hidden_items(self, item_ids: Tensor) -> Tensor: ...
    def hidden_catalogue(self) -> Tensor: ...
    def item_groups(self, item_ids: np.ndarray) -> np.ndarray: ...
    def item_vectors(self, hidden: Tensor | None = None) -> Tensor: ...
    def user_vectors(self, sequences: Sequences, users: np.ndarray) -> Tensor: ...


@dataclass(frozen=True)
class Validation:
    """What a check during training evaluates.

    Attributes:
        histories: users' events before their valid item.
        users: `[n]` numbers in `histories` of the users looked at: all, or a fixed, seeded sample.
        targets: `[n]` their valid items.
        negatives: `[n, m]` their candidates besides the target.
        repeats: data.repeats; with `keep`, items of the history are ranked too.
    """

    histories: Sequences
    users: np.ndarray
    targets: np.ndarray
    negatives: np.ndarray
    repeats: str = "first"

    @classmethod
    def of(cls, valid: HeldOut, drawn: Path, at_most: int, seed: int, repeats: str) -> "Validation":
        """All users of the valid split and their lists in candidates.parquet, or a sample of `at_most` by `seed`."""
        _, negatives = candidates.read(drawn, "valid")
        rows = valid.rows(at_most, seed)
        return cls(valid.histories, rows + 1, valid.targets[rows], negatives[rows], repeats)

    def scores(self, model: Trainee, hidden: Tensor | None = None) -> dict[str, float]:
        """Metrics under their names, such as `valid/uni99/ndcg_10`.

        Args:
            hidden: `[I + 1, d_llm]` the model's h_i; computed if None.
        """
        excluded = self.histories.excluded(self.repeats)
        by_protocol = ranks.rank(
            model.user_vectors(self.histories, self.users).numpy(),
            model.item_vectors(hidden).numpy(),
            self.targets,
            *ranks.select(excluded.offsets, excluded.items, self.users),
            self.negatives,
        )
        return {
            f"valid/{protocol}/{name}": value
            for protocol, of_protocol in by_protocol.items()
            for name, value in metrics.summary(of_protocol).items()
        }


def train(
    model: Trainee,
    sequences: Sequences,
    validation: Validation,
    settings: Model,
    train: Train,
    resume: Path,
    on_check: Callable[[Curve], None] = lambda curve: None,
    losses_of: StepLosses | None = None,
    warm: bool = False,
    at_step: Callable[[float], None] = lambda share: None,
    check_first: bool = False,
) -> Curve:
    """Train the heads and tokens in place; they end as they were at the best check.

    Args:
        sequences: train.parquet, items shuffled within users or not.
        resume: folder for the state from which the same call goes on after a kill, with the same result.
        on_check: called after each check with the curve so far; what it raises ends the training.
        losses_of: what a step minimises, `step_losses` if None.
        warm: the heads have learnt already, and stay as they are at first.
        at_step, check_first: see `loop.fit`.

    Returns:
        The curve: an entry for each check with `step`, `epoch`, `users` (validation users), the mean losses since
        the check before, and the validation metrics.

    Raises:
        DataError: a checkpoint cannot be written.
    """
    samples, lengths = training_samples(model, sequences, train)
    losses_at: StepLosses = losses_of or step_losses
    if isinstance(model, LLMSRec) and not warm:  # remembered outputs are standardised where they are read
        standardise_heads(model, samples, train)

    table: Tensor | None = None  # h_i of all items as of the last check, or of where the training begins or goes on

    def losses_of_step(rows: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        nonlocal table
        if settings.negatives == "all" and table is None:
            table = model.hidden_catalogue().to(model.device)
        model.train()
        return losses_at(model, samples, rows, settings, rng, table)

    def scores() -> dict[str, float]:
        nonlocal table
        if settings.negatives == "all":
            table = model.hidden_catalogue().to(model.device)
        return validation.scores(model, table)

    users, monitor = len(validation.users), f"valid/{train.monitor}"
    trained, hooks = model.trainable(), (on_check, at_step, check_first)
    return fit(trained, lengths, losses_of_step, scores, train, monitor, users, resume, *hooks)


@torch.no_grad()
def standardise_heads(model: LLMSRec, samples: Samples, train: Train) -> None:
    """Let f_user and f_item start from standardised hidden states, measured on `MEASURED` samples and items."""
    model.train()
    rng = np.random.default_rng([train.seed, len(samples.users)])
    rows = rng.permutation(len(samples.users))[:MEASURED]
    hidden = []
    with Progress(len(rows), unit="samples", label="what the heads start from") as progress:
        for batch in np.split(rows, range(train.batch_size, len(rows), train.batch_size)):
            hidden.append(hidden_targets(model, samples, batch)[0])
            progress.add(len(batch))
    standardise(model.f_user, torch.cat(hidden))
    items = 1 + rng.permutation(samples.items)[:MEASURED]
    standardise(model.f_item, model.hidden_items(torch.from_numpy(items).to(model.device)))


def training_samples(model: Trainee, sequences: Sequences, train: Train) -> tuple[Samples, np.ndarray]:
    """What is learnt from, and `[S]` the length of each sample's prompt."""
    prompts = model.prompts
    history = prompts.history if train.targets == "last" else prompts.always_fit
    samples = Samples.of(sequences, len(model.teacher.item_vectors()) - 1, train.targets, history)
    return samples, prompts.user_lengths(samples.histories(np.arange(len(samples.users)))[0])


def user_vectors(model: LLMSRec, samples: Samples, rows: np.ndarray) -> Tensor:
    """`[T, 2 d']`: of each target of `rows`, f_user(h_u) and f_CF-user(O_u) beside each other."""
    hidden, seen = hidden_targets(model, samples, rows)
    return torch.cat([model.f_user(hidden), model.f_cf_user(seen)], dim=1)


def hidden_targets(model: LLMSRec, samples: Samples, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """h_u `[T, d_llm]` and O_u `[T, d]` of the history before each target of `rows`."""
    with torch.no_grad():
        before = samples.before(*samples.targets(rows), model.teacher.max_length)
        seen = model.teacher.last(torch.from_numpy(before).to(model.device))
    return model.hidden_positions(*samples.histories(rows), seen), seen


def step_losses(
    model: Any,
    samples: Samples,
    rows: np.ndarray,
    settings: Model,
    rng: np.random.Generator,
    table: Tensor | None = None,
    vectors_of: Callable[[Any, Samples, np.ndarray], Tensor] = user_vectors,
) -> dict[str, Tensor]:
    """The weighted terms of Eq. 4 for one batch of samples, in which `T` targets are predicted.

    Several processes compute their shares of the vectors and all have the terms of the whole batch.

    Args:
        model: a `Trainee`.
        rows: `[B]` rows of `samples`.
        rng: draws the negatives.
        table: `[I + 1, d_llm]` h_i of all items, of `negatives: all`.
        vectors_of: `user_vectors`, or what makes the same of a model whose outputs are remembered.
    """
    users, places = samples.targets(rows)
    user, cf_user = distributed.spread_rows(partial(vectors_of, model, samples), rows).chunk(2, dim=1)
    return vector_losses(model, user, cf_user, samples, users, places, settings, rng, table)


def vector_losses(
    model: Trainee,
    user: Tensor,
    cf_user: Tensor,
    samples: Samples,
    users: np.ndarray,
    places: np.ndarray,
    settings: Model,
    rng: np.random.Generator,
    table: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of Eq. 4, given the vectors `[T, d']` that f_user and f_CF-user make for `T` targets.

    `cf_retrieval`, which the paper does not have, is Eq. 1 on f_CF-user's scores of the same candidates, so that the
    tower without a language model is better by itself.
    """
    weights, owners = settings.weights, torch.from_numpy(users).to(model.device)
    sides = [user, cf_user] if weights.cf_retrieval else [user]
    if settings.negatives == "all":
        scored = catalogue_scores(model, sides, samples, users, places, table)
    else:
        scored = candidate_scores(model, sides, samples, users, places, settings, rng)
    terms = zip(("retrieval", "cf_retrieval"), scored, strict=False)
    parts = {name: getattr(weights, name) * losses.retrieval(scores) for name, scores in terms}
    if settings.distill:
        distill = losses.distill_mse if settings.distill_loss == "mse" else losses.distill_contrastive
        parts["distill"] = weights.distill * distill(cf_user, user, settings.distill_normalize)
    if settings.uniform:
        parts["uniform"] = weights.uniform * (losses.uniform(user, owners) + losses.uniform(cf_user, owners))
    return parts


def candidate_scores(
    model: Trainee,
    sides: list[Tensor],
    samples: Samples,
    users: np.ndarray,
    places: np.ndarray,
    settings: Model,
    rng: np.random.Generator,
) -> list[Tensor]:
    """Scores `[T, C]` of each target's candidates, the positive first; -inf where a shared one is the user's own.

    By f_user's vectors `[T, d']`, and then by f_CF-user's where they are given. These leave the items as they are: with
    a gradient to these few, the tower with a language model loses more than it should (docs/experiments.md).

    `own`: each target has its negatives. `shared`: the batch's negatives are there for every target. `in_batch`: the
    other targets' positives are too, and are corrected for being popular (`losses.log_excess`).

    Each item goes through the language model once a batch, however many targets it is a candidate of.
    """
    positives = samples.sequences.items[places].astype(np.int64)
    negatives = samples.negatives(users, settings.candidates - 1, rng)
    unique, where = np.unique(np.concatenate([positives, negatives.ravel()]), return_inverse=True)
    items = distributed.spread_items(partial(item_vectors, model), unique, model.item_groups)
    positive, negative = (torch.from_numpy(part).to(model.device) for part in np.split(where.ravel(), [len(positives)]))
    pairs = list(zip(sides, (items, items.detach()), strict=False))
    first = [(vectors * of_items[positive]).sum(dim=1, keepdim=True) for vectors, of_items in pairs]
    if settings.negatives == "own":
        negative = negative.view(len(positives), -1)
        rest = [torch.einsum("td,tcd->tc", vectors, of_items[negative]) for vectors, of_items in pairs]
    else:
        pool = torch.unique(negative if settings.negatives == "shared" else torch.cat([positive, negative]))
        ids = unique[pool.cpu().numpy()]
        rest = [vectors @ of_items[pool].T for vectors, of_items in pairs]
        if settings.negatives == "in_batch":
            share = torch.from_numpy(samples.popularity[ids]).to(items)
            excess = losses.log_excess(share, len(positives) - 1, negatives.size, samples.items)
            rest = [scores - excess for scores in rest]
        own = torch.from_numpy(samples.own(users[:, None], ids)).to(model.device)
        rest = [scores.masked_fill(own, -torch.inf) for scores in rest]
    return [torch.cat(pair, dim=1) for pair in zip(first, rest, strict=True)]


def catalogue_scores(
    model: Trainee, sides: list[Tensor], samples: Samples, users: np.ndarray, places: np.ndarray, table: Tensor | None
) -> list[Tensor]:
    """Scores `[T, 1 + I]` of each target's positive and then of all items, else as `candidate_scores`: -inf where an
    item is the user's own.

    f_item has a gradient, of f_CF-user's scores too (docs/experiments.md says what it is worth). The items' hidden
    states have none, and are those of the last check: f_I and [UserOut] learn through the users' prompts alone.

    Args:
        table: `[I + 1, d_llm]`; computed if None.
    """
    if table is None:
        table = model.hidden_catalogue().to(model.device)
    every = np.arange(1, samples.items + 1)
    items = distributed.spread_rows(lambda ids: model.f_item(table[torch.from_numpy(ids).to(table.device)]), every)
    own = torch.from_numpy(samples.known(users)).to(model.device)[:, 1:]
    positive = torch.from_numpy(samples.sequences.items[places].astype(np.int64) - 1).to(model.device)[:, None]
    scored = []
    for vectors in sides:
        scores = vectors @ items.T
        scored.append(torch.cat([scores.gather(1, positive), scores.masked_fill(own, -torch.inf)], dim=1))
    return scored


def item_vectors(model: Trainee, item_ids: np.ndarray) -> Tensor:
    """`[n, d']` f_item(h_i), with a gradient."""
    return model.f_item(model.hidden_items(torch.from_numpy(item_ids).to(model.device)))
