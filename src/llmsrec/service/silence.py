"""How long a worker has said nothing while it had something to do: what tells one that hangs from one that is slow."""

from pathlib import Path

TICK_S = 1.0


class Silence:
    """Seconds in which a process could have said something and did not, from now on.

    They are counted in ticks of the service: time in which the service itself did not run (a paused container, a
    suspended machine) is none of them. Nor is time in which the process waited for a processor that others had.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._ticks, self._delayed_s = pid, 0, delayed_s(pid)
        self.seconds = 0.0

    def tick(self) -> None:
        """Another TICK_S of the service's time."""
        self._ticks += 1
        self.seconds = max(0.0, self._ticks * TICK_S - (delayed_s(self._pid) - self._delayed_s))


def delayed_s(pid: int) -> float:
    """Seconds that the first thread of a process, ready to run, has waited for a processor so far; 0 where not known.

    That is the second figure of Linux' schedstat, in ns; a wait is added to it once it is over.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
