"""Runs a function in several processes that work together over gloo, forked from this one, which has all in memory."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from llmsrec import distributed


def run(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `count` processes: JSON-like values, arrays or tensors."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe(duplex=False) for _ in range(count)]
    children = [
        context.Process(target=_child, args=(rank, count, port, ends[rank][1], function, arguments), daemon=True)
        for rank in range(count)
    ]
    for child in children:
        child.start()
    results = []
    for receiver, _ in ends:
        assert receiver.poll(60), "a process hangs"
        results.append(receiver.recv())
    for child in children:
        child.join(10)
    errors = [result for okay, result in results if not okay]
    assert not errors, "\n".join(errors)
    return [result for _, result in results]


def _child(rank: int, count: int, port: int, sender: Any, function: Callable[..., Any], arguments: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    try:
        with distributed.joined():
            sender.send((True, _plain(function(*arguments))))
    except BaseException:
        sender.send((False, traceback.format_exc()))


def _plain(value: Any) -> Any:
    """Tensors as arrays, which a pipe takes as they are."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
