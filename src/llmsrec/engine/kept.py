"""Keys and values of users' prompts, kept for when the users come back.

In a causal, frozen model the keys and values of a prompt's beginning do not depend on what follows. So of a user who
comes back with one more item only that item and the ending are computed, and of one who comes back with none the ending
alone. What is kept is found by its content, event by event: the longest beginning that a prompt has in common with any
that was kept, whoever's it was. A prompt holds the last items, counted from the oldest of them: once one of these has
left it, it has only the constant head in common with the prompt of before.
"""

import threading
from collections import Counter, OrderedDict
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np

from llmsrec.prompts.retrieval import PromptBatch

# Rows of unlike length go through the model apart where together they would have more padding than a fifth of what has
# to be computed, and more than what a pass of a small model costs by itself.
PADDING, PASS = 0.2, 64
UNLIMITED = 1 << 40  # bytes, for `Kept`: nothing makes room


class Layers(Protocol):
    """A frozen language model's layers on some runtime.

    Keys and values are arrays `[2 * layers, heads, L, d_head]` of the runtime's own kind.
    """

    def head(self, prompts: PromptBatch) -> Any:
        """Keys and values of the constant that users' prompts begin with, one token at least."""

    def joined(self, parts: list[Any]) -> Any:
        """Keys and values behind each other, as a copy."""

    def follow(self, prompts: PromptBatch, pasts: list[Any]) -> tuple[np.ndarray, Any]:
        """Read out what follows `pasts` in `n` prompts, of which `prompts` has the rest alone.

        Returns:
            `[n, d_llm]` hidden states at their out tokens, float32, and the rest's keys and values
            `[2 * layers, n, heads, L, d_head]`.
        """


class Kept:
    """Reads prompts out from where what is kept of them ends. Threads may share one.

    Args:
        layers: of a frozen model. What is kept holds its item inputs, so they stay the same for good.
        limit: bytes of keys and values that are kept; what was used longest ago makes room.
    """

    def __init__(self, layers: Layers, limit: int) -> None:
        self._layers, self._limit = layers, limit
        # Digest of a prompt up to an event's end -> keys and values of that event, `[2 * layers, heads, L, d_head]`;
        # what was used longest ago stands first. A prompt's events are used from the last to the first, so that none
        # goes before those that follow it, which nobody could find without it.
        self._events: OrderedDict[bytes, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0
        self._counted: Counter[str] = Counter()

    def counted(self) -> dict[str, int]:
        """Since this was asked last: `prompts` that were read out, those of which an event was `found`, `positions`
        that did not have to be computed. And `bytes` that are kept now.
        """
        with self._lock:
            counted, self._counted = self._counted, Counter()
            return {name: counted[name] for name in ("prompts", "found", "positions")} | {"bytes": self._bytes}

    def read_out(self, prompts: PromptBatch) -> np.ndarray:
        """`[B, d_llm]` float32 hidden states at the out tokens of users' prompts with a constant head."""
        assert prompts.ends is not None
        head = self._layers.head(prompts)
        names = [_names(prompts, row, ends) for row, ends in enumerate(prompts.ends)]
        with self._lock:
            begun = [self._begun(each) for each in names]
        pasts = [self._layers.joined([head, *events]) if events else head for events in begun]
        starts = np.array([past.shape[2] for past in pasts])
        hidden: list[np.ndarray] = []
        groups = list(_alike(prompts.lengths - starts))
        for rows in groups:
            vectors, new = self._layers.follow(_rest(prompts, rows, starts[rows]), [pasts[row] for row in rows])
            hidden.append(vectors)
            with self._lock:
                for place, row in enumerate(rows):
                    self._keep(names[row], len(begun[row]), new[:, place], prompts.ends[row] - starts[row])
        with self._lock:
            spared = int((starts - prompts.constant).sum())
            self._counted.update(prompts=len(begun), found=sum(map(bool, begun)), positions=spared)
        return np.concatenate(hidden)[np.argsort(np.concatenate(groups))]

    def _begun(self, names: list[bytes]) -> list[Any]:
        """What is kept of a prompt's events, from the first to the last in a row."""
        events = []
        for name in names:
            if name not in self._events:
                break
            events.append(self._events[name])
        return events

    def _keep(self, names: list[bytes], reused: int, new: Any, ends: np.ndarray) -> None:
        """Keep a prompt's events.

        Args:
            reused: so many of them were kept.
            new: `[2 * layers, heads, L, d_head]` keys and values of what was computed.
            ends: where in there each event ends.
        """
        for number in reversed(range(len(names))):
            name = names[number]
            if number >= reused and name not in self._events:
                start = ends[number - 1] if number > reused else 0
                self._events[name] = event = self._layers.joined([new[:, :, start : ends[number]]])
                self._bytes += event.nbytes
            elif name in self._events:  # else it has made room meanwhile
                self._events.move_to_end(name)
        while self._bytes > self._limit:
            self._bytes -= self._events.popitem(last=False)[1].nbytes


def _rest(prompts: PromptBatch, rows: np.ndarray, starts: np.ndarray) -> PromptBatch:
    """Some prompts from `starts` on."""
    lengths = prompts.lengths[rows] - starts
    steps = np.arange(lengths.max())
    places = np.minimum(starts[:, None] + steps, prompts.slots.shape[1] - 1)
    inside = steps < lengths[:, None]
    tokens, slots = (np.where(inside, of[rows[:, None], places], 0) for of in (prompts.token_ids, prompts.slots))
    return PromptBatch(tokens, slots, lengths)


def _names(prompts: PromptBatch, row: int, ends: np.ndarray) -> list[bytes]:
    """A digest of all tokens and slots up to the end of each event."""
    digest, start, names = blake2b(digest_size=16), 0, []
    for end in ends.tolist():
        digest.update(prompts.token_ids[row, start:end].tobytes())
        digest.update(prompts.slots[row, start:end].tobytes())
        names.append(digest.digest())
        start = end
    return names


def _alike(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows of like length, in groups that are not too much padding."""
    order = np.argsort(lengths, kind="stable")
    groups, start, total = [], 0, 0
    for end, row in enumerate(order):
        total += lengths[row]
        if (end + 1 - start) * lengths[row] - total > max(PADDING * total, PASS):
            groups.append(order[start:end])
            start, total = end, lengths[row]
    return [*groups, order[start:]]
