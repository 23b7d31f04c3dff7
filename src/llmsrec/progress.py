"""How far a long command is: a bar on a terminal, a line every 20 s elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

EVERY_S = 20.0


class Progress:
    """Counts what is done; `with Progress(total, done) as progress: progress.add(32)`.

    Of several processes that share the work, the first speaks: stdout of the others leads nowhere (`distributed`).

    Args:
        total: all of what is counted.
        done: of these, so many were finished before this process began.
        unit: what is counted.
        label: names the work, where a command has several of it.
        tokens: of all that this process still has to do, where the work grows with these: the time left follows them.
    """

    def __init__(
        self, total: int, done: int = 0, unit: str = "users", label: str = "", tokens: int | None = None
    ) -> None:
        self.total, self.done = total, done
        self._unit, self._label, self._tokens, self._tokens_done = unit, label, tokens, 0
        self._began, self._before, self._said = time.monotonic(), done, time.monotonic()
        self._bar: Any = None
        if sys.stdout.isatty() and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=label or None, unit=f" {unit}", unit_scale=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.close()

    def add(self, count: int, tokens: int = 0) -> None:
        """Say that so many more are done, which hold so many tokens."""
        self.done += count
        self._tokens_done += tokens
        if self._bar:
            self._bar.update(count)
            if self._tokens:
                self._bar.set_postfix_str(f"{self._tokens_a_second():,.0f} tokens/s", refresh=False)
        elif count and time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            print(self._line(), flush=True)

    def skip(self, count: int, tokens: int = 0) -> None:
        """Say that so many were finished before this process began."""
        self.done += count
        self._before += count
        self._tokens = self._tokens and self._tokens - tokens
        if self._bar:
            self._bar.initial += count
            self._bar.update(count)

    def say(self, line: str) -> None:
        """Print a line of another kind, which leaves the bar whole."""
        if self._bar:
            tqdm.write(line)
        else:
            print(line, flush=True)

    def rate(self) -> float:
        """How many a second since this process began."""
        return (self.done - self._before) / self._seconds()

    def _line(self) -> str:
        if self._tokens:
            speed = f"{self._tokens_a_second():,.0f} tokens/s"
            left = (self._tokens - self._tokens_done) / self._tokens_a_second()
        else:
            speed, left = f"{self.rate():.4g} {self._unit}/s", (self.total - self.done) / self.rate()
        label = f"{self._label}: " if self._label else ""
        return f"{label}{self.done:,} of {self.total:,} {self._unit}, {speed}, {left:,.0f} s left"

    def _tokens_a_second(self) -> float:
        return self._tokens_done / self._seconds()

    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)
