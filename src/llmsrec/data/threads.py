"""Work on parts of a table in threads: numpy, polars and Arrow do nearly all of it outside of Python's lock."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")

THREADS = min(os.cpu_count() or 1, 4)  # each holds a part of its own in memory


def in_order(function: Callable[[A], R], arguments: Iterable[A], threads: int = THREADS) -> Iterator[R]:
    """`function` of each argument, in the order of arguments.

    Two more than there are threads are worked on or wait, so memory does not grow with their number.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[R]] = deque()
        for argument in arguments:
            pending.append(pool.submit(function, argument))
            if len(pending) > threads + 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
