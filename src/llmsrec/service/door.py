"""Which calls are let in: those that a tower has room for, as far as their text shows without being read as JSON."""

import time

from llmsrec.service import decode
from llmsrec.service.decode import Message
from llmsrec.service.metrics import Metrics, tower_label
from llmsrec.service.swap import Swap
from llmsrec.service.workers import Worker, full

PLACES = "places"  # in the scope of a call that was let in: the workers that have a place for it


class Door:
    """Refuses what cannot be let in, and keeps a place for each call that is.

    Calls come in bursts: a hundred have arrived before the first of them is asked of a worker, and without their places
    all of them would be let in, read and then refused.

    Args:
        deadline_s: of a call.
    """

    def __init__(self, swap: Swap, metrics: Metrics, deadline_s: float) -> None:
        self._swap, self._metrics, self._deadline_s = swap, metrics, deadline_s

    @property
    def crowded(self) -> bool:
        """Whether there is a call that cannot be let in now: quickly said, as every call asks."""
        loaded = self._swap.current
        return loaded is not None and bool(full(loaded.workers.values(), time.monotonic() + self._deadline_s))

    def refuses(self, path: str, body: bytes) -> int | None:
        """After how many seconds to send a call again that cannot be let in; None for others."""
        if not self.crowded or path not in decode.FORMS:
            return None
        towers, workers = self._answerers(path, body)
        after_s = full(workers, time.monotonic() + self._deadline_s)
        if after_s:
            self._metrics.refused_unread(tower_label(towers))
        return after_s

    def enter(self, scope: Message, body: bytes) -> None:
        """Keep a place for a call that is not refused, until it is to `leave`."""
        if self._swap.current is not None and scope["path"] in decode.FORMS:
            scope[PLACES] = self._answerers(scope["path"], body)[1]
            for worker in scope[PLACES]:
                worker.coming += 1

    def _answerers(self, path: str, body: bytes) -> tuple[list[str], list[Worker]]:
        """The towers that a call names, and their workers."""
        loaded = self._swap.current
        assert loaded is not None
        towers = loaded.towers(decode.glance(body, path), path)
        return towers, loaded.workers_of(towers)

    def leave(self, scope: Message) -> None:
        """Give a call's places back: it is asked now, or has been answered otherwise."""
        for worker in scope.pop(PLACES, ()):
            worker.coming -= 1
