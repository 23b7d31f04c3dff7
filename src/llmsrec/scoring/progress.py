"""How far a long command is: a bar on a terminal, a line every 20 s elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

EVERY_S = 20.0


class Progress:
    """Counts users; `with Progress(total, done) as progress: progress.add(32)`.

    Args:
        total: all users.
        done: of these, so many were finished before this process began.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self._began, self._before, self._said = time.monotonic(), done, time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, unit=" users", unit_scale=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.close()

    def add(self, users: int) -> None:
        """Say that so many more users are done."""
        self.done += users
        if self._bar:
            self._bar.update(users)
        elif users and time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            left = (self.total - self.done) / self.rate()
            print(f"{self.done:,} of {self.total:,} users, {self.rate():.4g} users/s, {left:,.0f} s left", flush=True)

    def rate(self) -> float:
        """Users a second since this process began."""
        return (self.done - self._before) / max(time.monotonic() - self._began, 1e-9)
