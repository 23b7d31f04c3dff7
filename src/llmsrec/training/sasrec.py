"""Training SASRec: next-item prediction at every position, early stopping on validation, resumable after a kill.

An epoch depends on the seed, its number and the state it starts from, and on nothing else: so a run that is killed
goes on from its last whole epoch and ends with the weights that it would have had. Of several processes each takes its
share of every batch; the gradients add up to the batch's. Only dropout differs: each draws its own.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmsrec import distributed, params
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.evaluation import metrics, ranks
from llmsrec.models import sequence_losses
from llmsrec.models.sasrec import SASRec
from llmsrec.training import checkpoint

METRIC = "valid/full/ndcg_10"
POOL = 64  # batches' worth of users that are sorted by length together: wide enough to pad little, and still mixed
BETAS = (0.9, 0.98)

Curve = list[dict[str, Any]]


def train(
    train: Sequences,
    histories: Sequences,
    targets: np.ndarray,
    items: int,
    settings: params.SASRec,
    resume: Path,
    device: str = "cpu",
) -> tuple[SASRec, Curve]:
    """Train until `settings.patience` epochs bring no better validation score, or `settings.epochs` are done.

    Args:
        train: the sequences to learn from; of each, the last `max_length` steps.
        histories: what comes before each user's validation target, in true order.
        targets: `[U]` the validation targets, item ids.
        items: the number of items I; ids are 1..I.
        settings: params.yaml's section `sasrec`.
        resume: the folder that this run, and only this run, keeps its state in.
        device: where to compute.

    Returns:
        the model of the best epoch, in evaluation mode, and a row for each epoch.

    Raises:
        DataError: no sequence has two events, another process trains in `resume`, a checkpoint cannot be written,
            or the training diverges.
    """
    table = train.last(settings.max_length + 1)
    users = np.flatnonzero(train.lengths() >= 2)
    if len(users) == 0:
        raise DataError("no training sequence has two events, so there is no next item to learn; lower `data.core`.")
    path = resume / "epoch.safetensors"
    with checkpoint.lock(resume), torch.random.fork_rng():
        model = SASRec(
            items, settings.dim, settings.blocks, settings.heads, settings.max_length, settings.dropout
        ).initialise(torch.Generator().manual_seed(settings.seed))
        model.to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, betas=BETAS, fused=True)
        best, curve = _weights(model), list[dict[str, Any]]()
        if (loaded := checkpoint.load(path)) is not None:
            tensors, curve = loaded[0], loaded[1]["curve"]
            model.load_state_dict(_under("model/", tensors))
            best = _under("best/", tensors)
            checkpoint.restore_optimizer(optimizer, model.named_parameters(), tensors)
            print(f"sasrec: going on after epoch {len(curve)}", flush=True)

        for epoch in range(len(curve) + 1, settings.epochs + 1):
            if curve and epoch - _best(curve)["epoch"] > settings.patience:
                break
            began = time.monotonic()
            loss = train_epoch(model, optimizer, table, users, settings, epoch)
            score = validate(model, histories, targets)
            curve.append({"epoch": epoch, "loss": loss, METRIC: score})
            if _best(curve)["epoch"] == epoch:
                best = _weights(model)
            state = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
            state |= {f"best/{name}": tensor for name, tensor in best.items()}
            state |= checkpoint.optimizer_tensors(optimizer, model.named_parameters())
            checkpoint.save(path, state, {"curve": curve})
            print(f"{_progress(curve, settings.epochs)}, {time.monotonic() - began:.1f} s", flush=True)

        model.load_state_dict(best)
        return model.eval(), curve


def train_epoch(
    model: SASRec,
    optimizer: torch.optim.Optimizer,
    table: np.ndarray,
    users: np.ndarray,
    settings: params.SASRec,
    epoch: int,
) -> float:
    """One pass over `users`; returns the mean loss over all positions.

    Args:
        table: `[U + 1, max_length + 1]` right-aligned training sequences.
        users: the rows of `table` to learn from.
    """
    device = model.item.weight.device
    rng = np.random.default_rng([settings.seed, epoch])
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    # Dropout knows no other generator than the global one.
    torch.manual_seed(int(rng.integers(2**63)) + distributed.rank())
    lengths = np.count_nonzero(table, axis=1)
    model.train()
    total, positions = torch.zeros((), device=device), 0
    for batch in batches(users, lengths, settings.batch_size, rng):
        rows = torch.from_numpy(table[batch, -lengths[batch].max() :]).to(device)
        loss, count = next_item_loss(model, rows, settings, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.add_up_gradients(model.parameters())
        optimizer.step()
        total += loss.detach() * count
        positions += count
    return float(distributed.add_up(total) / positions)


def next_item_loss(
    model: SASRec, rows: Tensor, settings: params.SASRec, generator: torch.Generator
) -> tuple[Tensor, int]:
    """The loss that `settings` names over every real position of right-aligned sequences `rows` `[B, L]`.

    Returns:
        the mean loss over the positions, and their number; of several processes, each one's part of that mean, so
        that the parts add up to it.
    """
    inputs, real = rows[:, :-1], rows[:, :-1] != 0
    own = distributed.stretch(len(rows))
    idle = own.start == own.stop
    if idle:  # it computes something all the same: a mean of nothing is NaN
        own = slice(0, 1)
    targets = rows[own, 1:][real[own]]
    users, items = model(inputs[own])[real[own]], model.item_vectors()
    count = len(items) - 1
    if settings.loss == "bce":
        negatives = sequence_losses.draw_unseen(rows, count, inputs.shape[1], generator)[own][real[own]]
        loss = sequence_losses.bce(users, targets, negatives, items)
    elif settings.loss == "ce":
        loss = sequence_losses.cross_entropy(users, targets, items)
    else:
        negatives = sequence_losses.draw_shared(count, settings.negatives, generator)
        if settings.loss == "sampled_softmax":
            loss = sequence_losses.sampled_softmax(users, targets, negatives, items)
        else:
            loss = sequence_losses.gbce(users, targets, negatives, items, settings.gbce_t)
    positions = int(real.sum())
    return loss * (0.0 if idle else len(targets) / positions), positions


def batches(users: np.ndarray, lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Every user once, in random batches of `batch_size` users of like lengths; `lengths` is indexed by user."""
    users = rng.permutation(users)
    width = POOL * batch_size
    for start in range(0, len(users), width):
        pool = users[start : start + width]
        users[start : start + width] = pool[np.argsort(lengths[pool], kind="stable")]
    cut = [users[start : start + batch_size] for start in range(0, len(users), batch_size)]
    return [cut[index] for index in rng.permutation(len(cut))]


def validate(model: SASRec, histories: Sequences, targets: np.ndarray) -> float:
    """NDCG@10 of all users' targets among all items outside their histories."""
    users = model.user_vectors(histories).cpu().numpy()
    items = model.item_vectors().detach().cpu().numpy()

    def rank(rows: np.ndarray) -> Tensor:
        seen = ranks.select(histories.offsets, histories.items, rows)
        return torch.from_numpy(ranks.rank(users[rows], items, targets[rows - 1], *seen)["full"])

    found = distributed.spread_rows(rank, np.arange(1, histories.users + 1))
    return float(metrics.ndcg(found.numpy(), 10).mean())


def _weights(model: SASRec) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _best(curve: Curve) -> dict[str, Any]:
    """The first of the rows with the highest score."""
    return max(curve, key=lambda row: row[METRIC])


def _progress(curve: Curve, epochs: int) -> str:
    row, best = curve[-1], _best(curve)
    return (
        f"sasrec epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, {METRIC} {row[METRIC]:.4f} "
        f"(best {best[METRIC]:.4f} at epoch {best['epoch']})"
    )
