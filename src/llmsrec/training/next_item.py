"""Training SASRec and the other teachers: the next item or a masked one, early stopping, resumable after a kill.

An epoch depends on the seed, its number and the state it starts from, and on nothing else: so a run that is killed
goes on from its last whole epoch and ends with the weights that it would have had. Of several processes each takes its
share of every batch; the gradients add up to the batch's. Only dropout differs: each draws its own.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from llmsrec import distributed, params
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.models.cf.teacher import MASK, Teacher, create
from llmsrec.models.losses import next_item as losses
from llmsrec.progress import Progress
from llmsrec.training import checkpoint
from llmsrec.training.validation import METRIC, Validation

POOL = 64  # batches' worth of users that are sorted by length together: wide enough to pad little, and still mixed
BETAS = (0.9, 0.98)

Curve = list[dict[str, Any]]


def train(
    train: Sequences,
    histories: Sequences,
    targets: np.ndarray,
    items: int,
    settings: params.NextItem,
    resume: Path,
    device: str = "cpu",
    first: Teacher | None = None,
    repeats: str = "first",
) -> tuple[Teacher, Curve]:
    """Train until `settings.patience` epochs bring no better validation score, or `settings.epochs` are done.

    Args:
        train: the sequences to learn from.
        histories: what comes before each user's validation target, in true order.
        targets: `[U]` the validation targets, item ids.
        items: the number of items I; ids are 1..I.
        settings: of the system that is trained, such as params.yaml's section `sasrec`.
        resume: the folder that this run, and only this run, keeps its state in.
        device: where to compute.
        first: the model to begin with, of `settings`' shape; a new one (`build`) if None.
        repeats: data.repeats; with `keep`, items of the history are ranked in validation too.

    Returns:
        the model of the best epoch, in evaluation mode, and a row for each epoch.

    Raises:
        DataError: no sequence has two events, another process trains in `resume`, a checkpoint cannot be written,
            or the training diverges.
    """
    samples = Samples.of(train, settings)
    if len(samples.ends) == 0:
        raise DataError("no training sequence has two events, so there is no next item to learn; lower `data.core`.")
    path = resume / "epoch.safetensors"
    with checkpoint.lock(resume), torch.random.fork_rng():
        model = (first or build(items, settings)).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, betas=BETAS, fused=True)
        best, curve = _weights(model), list[dict[str, Any]]()
        fresh = {f"{part}/{name}": tensor for part in ("model", "best") for name, tensor in best.items()}
        if (loaded := checkpoint.load(path, fresh, {"curve": [{"epoch": 1, "loss": 0.0, METRIC: 0.0}]})) is not None:
            tensors, curve = loaded[0], loaded[1]["curve"]
            model.load_state_dict(_under("model/", tensors))
            best = _under("best/", tensors)
            checkpoint.restore_optimizer(optimizer, model.named_parameters(), tensors)
            print(f"{settings.system}: going on after epoch {len(curve)}", flush=True)

        for epoch in range(len(curve) + 1, settings.epochs + 1):
            if curve and epoch - _best(curve)["epoch"] > settings.patience:
                break
            began = time.monotonic()
            loss = train_epoch(model, optimizer, samples, settings, epoch)
            score = validate(model, histories, targets, repeats)
            curve.append({"epoch": epoch, "loss": loss, METRIC: score})
            if _best(curve)["epoch"] == epoch:
                best = _weights(model)
            state = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
            state |= {f"best/{name}": tensor for name, tensor in best.items()}
            state |= checkpoint.optimizer_tensors(optimizer, model.named_parameters())
            checkpoint.save(path, state, {"curve": curve})
            print(f"{_progress(curve, settings)}, {time.monotonic() - began:.1f} s", flush=True)

        model.load_state_dict(best)
        return model.eval(), curve


def build(items: int, settings: params.NextItem) -> Teacher:
    """The untrained model: `settings` gives its shape and the seed of its first values."""
    model = create(settings.system, items, settings.shape())
    return model.initialise(torch.Generator().manual_seed(settings.seed))


@dataclass(frozen=True)
class Samples:
    """What a pass goes over: stretches of the training sequences, each with a target at its end.

    Attributes:
        train: the training sequences.
        ends: `[n]` where in `train.items` each sample's last event is.
        lengths: `[n]` events of each sample, `max_length` + 1 at most.
    """

    train: Sequences
    ends: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, train: Sequences, settings: params.NextItem) -> "Samples":
        """Each user's last events (`settings.samples: sequences`), or those up to each event but the first."""
        place = train.places()
        if settings.samples == "prefixes":
            ends = np.flatnonzero(place > 0)
        else:
            ends = train.offsets[1:][train.lengths() >= 2] - 1
        return cls(train, ends, np.minimum(place[ends], settings.max_length) + 1)

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """`[len(chosen), L]` int64: these samples right-aligned, padded with 0 to the longest of them."""
        length = self.lengths[chosen].max()
        before = np.arange(length - 1, -1, -1)  # events before the last
        table = self.train.items[np.maximum(self.ends[chosen, None] - before, 0)].astype(np.int64)
        return np.where(before < self.lengths[chosen, None], table, 0)


def train_epoch(
    model: Teacher, optimizer: torch.optim.Optimizer, samples: Samples, settings: params.NextItem, epoch: int
) -> float:
    """One pass over `samples`; returns the mean loss over all targets."""
    device = model.item_vectors().device
    rng = np.random.default_rng([settings.seed, epoch])
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    # Dropout knows no other generator than the global one.
    torch.manual_seed(int(rng.integers(2**63)) + distributed.rank())
    if settings.schedule == "linear":
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 - (epoch - 1) / settings.epochs)
    model.train()
    total, targets = torch.zeros((), device=device), 0
    with Progress(len(samples.ends), unit="samples", label=f"{settings.system} epoch {epoch}") as progress:
        for batch in batches(samples.lengths, settings.batch_size, rng):
            rows = torch.from_numpy(samples.rows(batch)).to(device)
            with parametrize.cached():  # an item table that is made of something is made once
                loss, count = next_item_loss(model, rows, settings, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            distributed.add_up_gradients(model.parameters())
            optimizer.step()
            total += loss.detach() * count
            targets += count
            progress.add(len(batch))
    return float(distributed.add_up(total) / targets)


def next_item_loss(
    model: Teacher, rows: Tensor, settings: params.NextItem, generator: torch.Generator
) -> tuple[Tensor, int]:
    """The loss that `settings` names over right-aligned samples `rows` `[B, L]`.

    The targets are the items after every real position (`settings.samples: sequences`), or the last alone; of
    BERT4Rec those that are masked.

    Returns:
        the mean loss over the targets, and their number; of several processes, each one's part of that mean, so
        that the parts add up to it.
    """
    last = False
    if isinstance(settings, params.Cloze):
        following, real = rows, masked(rows, settings, generator)
        inputs = rows.masked_fill(real, MASK)
    else:
        inputs, following, real = rows[:, :-1], rows[:, 1:], rows[:, :-1] != 0
        last = settings.samples == "prefixes"
    own = distributed.stretch(len(rows))
    idle = own.start == own.stop
    if idle:  # it computes something all the same: a mean of nothing is NaN
        own = slice(0, 1)
    items = model.item_vectors()
    if last:
        following, real = following[:, -1:], real[:, -1:]
        users = model.last_only(inputs[own])
    else:
        users = model(inputs[own])[real[own]]
    targets = following[own][real[own]]
    count = len(items) - 1
    if settings.loss == "bce":
        negatives = losses.draw_unseen(rows, count, real.shape[1], generator)[own][real[own]]
        loss = losses.bce(users, targets, negatives, items)
    elif settings.loss == "ce":
        loss = losses.cross_entropy(users, targets, items, settings.label_smoothing)
    else:
        negatives = losses.draw_shared(count, settings.negatives, generator)
        if settings.loss == "sampled_softmax":
            loss = losses.sampled_softmax(users, targets, negatives, items)
        else:
            loss = losses.gbce(users, targets, negatives, items, settings.gbce_t)
    positions = int(real.sum())
    return loss * (0.0 if idle else len(targets) / positions), positions


def masked(rows: Tensor, settings: params.Cloze, generator: torch.Generator) -> Tensor:
    """`[B, L]`: True where an item of the right-aligned samples `rows` is masked.

    Of a part of the samples, `last_share` of them, that is the last item alone, as when a user is asked about. Of the
    others each item is masked with the chance `mask_share`, and the last one where none is.
    """
    drawn = torch.rand(len(rows), rows.shape[1] + 1, generator=generator, device=rows.device)
    hidden = (drawn[:, 1:] < settings.mask_share) & (rows != 0) & (drawn[:, :1] >= settings.last_share)
    hidden[:, -1] |= ~hidden.any(dim=1)
    return hidden


def batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The numbers of all samples, each once, in random batches of `batch_size` samples of like `lengths`."""
    order = rng.permutation(len(lengths))
    width = POOL * batch_size
    for start in range(0, len(order), width):
        pool = order[start : start + width]
        order[start : start + width] = pool[np.argsort(lengths[pool], kind="stable")]
    cut = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [cut[index] for index in rng.permutation(len(cut))]


def validate(model: Teacher, histories: Sequences, targets: np.ndarray, repeats: str = "first") -> float:
    """NDCG@10 of all users' targets among all items outside their histories (of data.repeats `keep`: all items)."""
    with torch.no_grad(), parametrize.cached():
        users, items = model.user_vectors(histories).cpu().numpy(), model.item_vectors().cpu().numpy()
    return Validation(histories, targets, histories.excluded(repeats)).score(users, items)


def _weights(model: Teacher) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _best(curve: Curve) -> dict[str, Any]:
    """The first of the rows with the highest score."""
    return max(curve, key=lambda row: row[METRIC])


def _progress(curve: Curve, settings: params.NextItem) -> str:
    row, best = curve[-1], _best(curve)
    return (
        f"{settings.system} epoch {row['epoch']}/{settings.epochs}: loss {row['loss']:.4f}, {METRIC} {row[METRIC]:.4f} "
        f"(best {best[METRIC]:.4f} at epoch {best['epoch']})"
    )
