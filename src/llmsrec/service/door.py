"""Which calls are let in: those that a tower has room for, as far as their text shows without being read as JSON."""

import time

from llmsrec.service import decode
from llmsrec.service.decode import Message
from llmsrec.service.metrics import Metrics, tower_label
from llmsrec.service.swap import Swap
from llmsrec.service.workers import full

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

    def refuses(self, scope: Message, body: bytes) -> int | None:
        """After how many seconds to send a call again that cannot be let in; None for others, until they `leave`."""
        loaded, path = self._swap.current, scope["path"]
        if loaded is None or path not in decode.FORMS:
            return None
        towers = loaded.towers(decode.glance(body, path), path)
        workers = loaded.workers_of(towers)
        after_s = full(workers, time.monotonic() + self._deadline_s)
        if after_s:
            self._metrics.refused_unread(tower_label(towers))
        else:
            scope[PLACES] = workers
            for worker in workers:
                worker.coming += 1
        return after_s

    def leave(self, scope: Message) -> None:
        """Give a call's places back: it is asked now, or has been answered otherwise."""
        for worker in scope.pop(PLACES, ()):
            worker.coming -= 1
