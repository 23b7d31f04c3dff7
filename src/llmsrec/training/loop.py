"""The loop of every training through a language model: minimise, check, keep the best, go on after a kill.

Read from top to bottom. What a step minimises and what a check evaluates are functions that the caller gives.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.params import Train
from llmsrec.progress import Progress
from llmsrec.training import checkpoint
from llmsrec.training.batches import check_steps, epoch

Losses = Callable[[np.ndarray, np.random.Generator], dict[str, Tensor]]  # rows of samples -> weighted terms by name
Curve = list[dict[str, Any]]
MAPS = ("f_I.", "f_U.")  # what brings the recommender's vectors into the language model


def fit(
    parameters: dict[str, nn.Parameter],
    lengths: np.ndarray,
    losses_at: Losses,
    scores: Callable[[], dict[str, float]],
    train: Train,
    monitor: str,
    users: int,
    resume: Path,
    on_check: Callable[[Curve], None] = lambda curve: None,
    at_step: Callable[[float], None] = lambda share: None,
    check_first: bool = False,
) -> Curve:
    """Train `parameters` in place; they end as they were at the best check.

    Args:
        parameters: what is trained, by name.
        lengths: `[S]` the length of each sample's prompt.
        losses_at: the terms whose sum a step minimises, for a batch's rows; what is drawn comes from the generator.
        scores: the metrics of a check, such as `valid/uni99/ndcg_10`.
        monitor: the one of them that is the greater the better; the first of the best checks is kept.
        users: how many users a check evaluates.
        resume: folder for the state from which the same call goes on after a kill, with the same result.
        on_check: called after each check with the curve so far; what it raises ends the training.
        at_step: called before each step with the share, from 0 to 1, of all steps that lie before it.
        check_first: whether a check comes before the first step, too, so that what begins well does not end worse.

    Returns:
        The curve: an entry for each check with `step`, `epoch`, `users`, the mean losses since the check before (none
        at step 0), and the metrics.

    Raises:
        DataError: a checkpoint cannot be written.
    """
    optimizer = optimizer_of(parameters, train)
    device = next(iter(parameters.values())).device
    curve: Curve = []
    best = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    best_score, stale, done = -1.0, 0, 0

    samples_ahead, tokens_ahead = train.epochs * len(lengths), train.epochs * int(lengths.sum())
    steps = train.epochs * -(-len(lengths) // train.batch_size)
    with (
        checkpoint.lock(resume),
        Progress(samples_ahead, unit="samples", label="training", tokens=tokens_ahead) as progress,
    ):
        fresh = {f"{part}/{name}": tensor for part in ("model", "best") for name, tensor in best.items()}
        entry = {"step": 1, "epoch": 0.0, "users": 1, monitor: 0.0}
        example = {"curve": [entry], "best_score": 0.0, "stale": 0, "steps": 1}
        saved = checkpoint.load(resume / "state.safetensors", fresh, example)
        if saved is not None:
            tensors, state = saved
            curve, best_score, stale, done = state["curve"], state["best_score"], state["stale"], state["steps"]
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(tensors[f"model/{name}"])
                    best[name].copy_(tensors[f"best/{name}"])
            checkpoint.restore_optimizer(optimizer, parameters.items(), tensors)
            print(f"going on after step {done:,}", flush=True)
        elif check_first:
            curve = [{"step": 0, "epoch": 0.0, "users": users} | scores()]
            best_score = curve[0][monitor]

        started, totals, since = time.monotonic(), dict[str, float](), 0
        for step, (when, rows, rng, check) in enumerate(schedule(lengths, train), start=1):
            tokens = int(lengths[rows].sum())
            if step <= done:
                progress.skip(len(rows), tokens)
                continue
            if stale >= train.patience:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["first_lr"] * train.lr_decay ** (len(curve) - check_first)
            at_step((step - 1) / steps)
            parts = losses_at(rows, rng)
            total = sum(parts.values(), start=torch.zeros((), device=device))
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            distributed.add_up_gradients(parameters.values())
            optimizer.step()
            since += 1
            progress.add(len(rows), tokens)
            for name, value in {"loss": total, **parts}.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach())
            if not check:
                continue

            metrics = scores()
            score = metrics[monitor]
            stale = 0 if score > best_score else stale + 1
            if score > best_score:
                best_score = score
                best = {name: parameter.detach().clone() for name, parameter in parameters.items()}
            means = {name: value / since for name, value in totals.items()}
            curve.append({"step": step, "epoch": when, "users": users} | means | metrics)
            totals, since = {}, 0
            checkpoint.save(
                resume / "state.safetensors",
                {f"model/{name}": parameter for name, parameter in parameters.items()}
                | {f"best/{name}": tensor for name, tensor in best.items()}
                | checkpoint.optimizer_tensors(optimizer, parameters.items()),
                {"curve": curve, "best_score": best_score, "stale": stale, "steps": step},
            )
            progress.say(
                f"epoch {when:5.2f} of {train.epochs}  loss {means['loss']:.4f}  "
                f"{monitor.removeprefix('valid/')} {score:.4f} (best {best_score:.4f})  "
                f"{time.monotonic() - started:5.0f} s"
            )
            on_check(curve)

        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(best[name])
    return curve


def optimizer_of(parameters: dict[str, nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """AdamW, in which f_I and f_U may learn more slowly than the rest.

    At the full rate f_I gives each item an embedding of its own, which is then read instead of the title: little is
    learnt of items that are rarely bought (docs/experiments.md).
    """
    inputs = [parameter for name, parameter in parameters.items() if name.startswith(MAPS)]
    others = [parameter for name, parameter in parameters.items() if not name.startswith(MAPS)]
    groups = [
        {"params": members, "lr": rate, "first_lr": rate}
        for members, rate in ((others, train.lr), (inputs, train.lr * train.input_lr))
        if members
    ]
    return torch.optim.AdamW(groups, betas=(0.9, train.beta2), weight_decay=train.weight_decay)


def schedule(lengths: np.ndarray, train: Train) -> Iterator[tuple[float, np.ndarray, np.random.Generator, bool]]:
    """All steps of all epochs: the time in epochs, the batch's rows, its randomness, and whether a check follows."""
    for number in range(train.epochs):
        batches = list(epoch(lengths, train.batch_size, np.random.default_rng([train.seed, number])))
        checks = check_steps(len(batches), train.evaluations_per_epoch)
        for index, rows in enumerate(batches, start=1):
            when = round(number + index / len(batches), 4)
            yield when, rows, np.random.default_rng([train.seed, number, index]), index in checks


def one_after_the_other(*curves: Curve) -> Curve:
    """The curve of trainings of a model, each of which begins where the one before it ends."""
    whole: Curve = []
    for curve in curves:
        before = {key: whole[-1][key] for key in ("step", "epoch")} if whole else {"step": 0, "epoch": 0}
        whole += [entry | {key: before[key] + entry[key] for key in before} for entry in curve]
    return whole


def plan(
    *,
    batch_size: int,
    lr: float,
    epochs: int,
    patience: int,
    seed: int,
    lr_decay: float = 1.0,
    weight_decay: float = 0.0,
    evaluations_per_epoch: int = 1,
) -> Train:
    """What `fit` reads of params.yaml's `train`, for a system that has these values in a file of its own."""
    return Train(
        start="scratch",
        targets="all",
        batch_size=batch_size,
        lr=lr,
        lr_decay=lr_decay,
        beta2=0.98,
        weight_decay=weight_decay,
        input_lr=1.0,
        epochs=epochs,
        evaluations_per_epoch=evaluations_per_epoch,
        patience=patience,
        monitor="full/ndcg_10",
        seed=seed,
    )


@contextmanager
def only(parameters: dict[str, nn.Parameter], chosen: Callable[[str], bool]) -> Iterator[None]:
    """For a while, of all that is trained only the parameters with a `chosen` name are."""
    still = [parameter for name, parameter in parameters.items() if not chosen(name)]
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
