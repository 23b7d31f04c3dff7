"""How many connections may be open: as many as we allow, or fewer where the process may not open so many files."""

import logging
import resource

from llmsrec.errors import RequestError

CONNECTIONS, BACKLOG = 4096, 2048  # open at once, and those that wait to be accepted
OTHERS = 128  # files that are no connections: of workers, the registry, versions that are brought, the logs
LEAST = 256  # files with which it makes sense to start

log = logging.getLogger(__name__)


def crowd(connections: int) -> int:
    """How many may be open with those whose calls are told to come again; more are closed at once."""
    return connections + connections // 4


def connections() -> tuple[int, int]:
    """Connections and backlog, once the process may open as many files as its hard limit allows and these need.

    Raises:
        RequestError: too few to serve with.
    """
    wanted = crowd(CONNECTIONS) + BACKLOG + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return CONNECTIONS, BACKLOG
    if soft < LEAST:
        raise RequestError(
            f"the process may open {soft} files; allow {LEAST} at least (`ulimit -Hn`), {wanted} for all."
        )
    fewer = (soft - OTHERS) * 4 // 9  # with a quarter more that crowd, and as many that wait
    said = {"files": soft, "connections": fewer, "wanted": wanted}
    log.warning("few files may be open (`ulimit -Hn`), so fewer connections may", extra=said)
    return fewer, fewer
