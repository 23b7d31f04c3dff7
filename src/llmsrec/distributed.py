"""Several processes that work as one: N of them, each with its share of a batch, give the numbers that one gives.

All processes draw the same batch, targets and negatives, as these follow from the seed. Each puts its share of the
users and items through the models and gathers the vectors of all others, so that every process has the loss of the
whole batch: means, uniformity, contrast and shared negatives are over all of it. Of its gradient each has the part that
flows through its own share; the parts are added up, never averaged. `all_reduce` is the only collective there is.

One process is `size()` 1, and every function here then returns what it was given.
"""

import hashlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from llmsrec.errors import DataError, ParamsError

COUNT = "LLMSREC_PROCESSES"
FAILED = "llmsrec/failed"
GRACE = 10.0  # seconds in which a process that lost the others is ended by whoever started it
_joined: dict[str, Any] = {}


class LostTouch(DataError):
    """Another process of the run has ended."""


def size() -> int:
    """How many processes work together."""
    return _joined.get("size", 1)


def rank() -> int:
    """This one's number, from 0."""
    return _joined.get("rank", 0)


def is_main() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


def launch(module: str, *arguments: str) -> bool:
    """Run `python -m module arguments` in `LLMSREC_PROCESSES` processes, where the environment has that, and wait.

    Returns:
        whether it did; False where one process is enough, or where torchrun has started this one.

    Raises:
        ParamsError: the number is none.
        SystemExit: one of them failed; the others were ended.
    """
    text = os.environ.get(COUNT, "1")
    if not text.isdecimal() or int(text) < 1:
        raise ParamsError(f"{COUNT} is {text!r}; give the number of processes, such as 2, or unset it.")
    count = int(text)
    if count == 1 or "WORLD_SIZE" in os.environ:
        return False

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed speaks for itself
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=module,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise DataError(
                f"process {number} of {count} was ended by {name} (SIGKILL often means too little memory), and the "
                "others with it; run the same command again, and it goes on from the last checkpoint."
            ) from error
        sys.exit(1)
    return True


@contextmanager
def joined() -> Iterator[None]:
    """Work with the other processes that torchrun (or `launch`) has started; alone if there are none.

    Only the first process prints to stdout.

    Raises:
        ParamsError: there are more processes on this machine than CUDA devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ParamsError(
                f"process {local + 1} of this machine finds {torch.cuda.device_count()} CUDA devices; start as many "
                "processes as there are devices."
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    store, number, count = next(dist.rendezvous("env://"))
    _joined.update(store=store, rank=number, size=count)
    with _telling_when_lost():
        dist.init_process_group(backend, store=store, rank=number, world_size=count)
    if is_main():
        yield
    else:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    dist.destroy_process_group()
    _joined.clear()


def first_to_fail(error: BaseException) -> bool:
    """Whether it is for this process to print `error`: one of all says what is wrong, and the others end silently."""
    if size() == 1:
        return True
    if isinstance(error, LostTouch):
        time.sleep(GRACE)
    try:
        return _joined["store"].add(FAILED, 1) == 1
    except RuntimeError:  # whoever kept the store has ended: it has spoken, or has been seen to end
        return not isinstance(error, LostTouch)


def spread_rows(compute: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> Tensor:
    """`compute(rows)`, of which each process does a stretch of the rows.

    Args:
        compute: rows to vectors, any number for each row, row by row.
        rows: `[n]`, at least one; the same in all processes.
    """
    own = stretch(len(rows))
    return _spread(compute, rows, rows[own])


def spread_items(
    compute: Callable[[np.ndarray], Tensor], item_ids: np.ndarray, groups: Callable[[np.ndarray], np.ndarray]
) -> Tensor:
    """`compute(item_ids)`, a vector an item, of which each process does its own items (`own_items`)."""
    if size() == 1:
        return compute(item_ids)
    owners = groups(item_ids) % size()
    vectors = _spread(compute, item_ids, item_ids[owners == rank()])
    order = np.argsort(owners, kind="stable")
    return vectors[torch.from_numpy(np.argsort(order)).to(vectors.device)]


def stretch(count: int) -> slice:
    """This process's share of `count` rows, which lie in the order of the processes; it may be empty."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def own_items(item_ids: np.ndarray, groups: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Those that this process embeds: always the same ones, whole groups, so that no two processes hold a prefix.

    Args:
        groups: item ids to the numbers of the groups whose prefixes are computed together.
    """
    return item_ids[groups(item_ids) % size() == rank()]


def gather(own: Tensor) -> Tensor:
    """`[n_0 + n_1 + ..., ...]`: what each process has, one after the other.

    The gradient that comes back is that of a loss which every process computes from the whole, so a process keeps
    the rows that are its own.
    """
    return own if size() == 1 else _Gather.apply(own)


def add_up(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place.

    Raises:
        LostTouch: another process has ended.
    """
    if size() > 1:
        with _telling_when_lost():
            dist.all_reduce(tensor)
    return tensor


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each parameter the sum of all processes' gradients; None where no process has one."""
    if size() == 1:
        return
    parameters = list(parameters)
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = add_up(torch.cat([*(gradient.flatten() for gradient in gradients), present]))
    *parts, present = flat.split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, part, holders in zip(parameters, parts, present.tolist(), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype) if holders else None


def agree(text: str, what: str) -> None:
    """Make sure that all processes hold the same `text`.

    Raises:
        DataError: they do not; `what` says of what.
    """
    if size() == 1:
        return
    own = torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.int64)
    if not torch.equal(add_up(own.clone()), own * size()):
        raise DataError(
            f"the {size()} processes do not see the same {what}; on several hosts they need one shared folder with "
            "the same code and parameters."
        )


def _spread(compute: Callable[[np.ndarray], Tensor], rows: np.ndarray, own: np.ndarray) -> Tensor:
    # Without a row of its own, a process has the vectors' shape from any other.
    return gather(compute(own) if len(own) else compute(rows[:1])[:0])


@contextmanager
def _telling_when_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostTouch(
            f"process {rank()} of {size()} lost touch with the others ({str(error).splitlines()[0]}); see their "
            "messages, then run the same command again: it goes on from the last checkpoint."
        ) from error


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        counts = torch.zeros(size(), dtype=torch.int64, device=own.device)
        counts[rank()] = len(own)
        add_up(counts)
        before = int(counts[: rank()].sum())
        ctx.window = slice(before, before + len(own))
        whole = own.new_zeros((int(counts.sum()), *own.shape[1:]))
        whole[ctx.window] = own
        return add_up(whole)  # with zeros: no rounding

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[ctx.window]
