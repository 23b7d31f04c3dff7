"""How much may be asked for at once, on every route: HTTP, `llmsrec recommend`, `mlflow.pyfunc`, Spark.

A service has few threads and one memory. Each limit alone keeps one call within seconds and some tens of MB; who has
more to ask makes several calls, or scores offline (`llmsrec score`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmsrec.errors import RequestError

if TYPE_CHECKING:
    from llmsrec.serving.schema import Request

REQUESTS = 256  # in one call
ITEMS = 10_000  # that all requests of a call ask for together: the sum of their `k`
EVENTS = 50_000  # in all histories of a call together
HISTORY = 1_000  # events of one request; all of them count, as items of the history are not recommended
ID = 256  # characters of a parent_asin, a category or a store
LISTED = 10_000  # ids of one `allow`, `block` or `candidates`
LISTS = 50_000  # ids in all `allow` and `block` of a call together
VALUES = 100  # of one column in a `filter`
DIVERSE = 100  # `k` of a request with `diversity`, which compares each item with all that were chosen before
TEXT = 1_000  # characters of a title that similar items are asked for


def check_count(requests: int) -> None:
    """Raise RequestError for more requests than one call may hold; cheap, so it comes before each is read."""
    if requests > REQUESTS:
        raise RequestError(f"{requests} requests in one call, and {REQUESTS} are the most; send them in several calls.")


def check_sums(requests: Sequence["Request"]) -> None:
    """Raise RequestError where the requests of a call ask for too much together."""
    check_count(len(requests))
    items, events = sum(request.k for request in requests), sum(len(request.history) for request in requests)
    if items > ITEMS:
        raise RequestError(
            f"the `k` of {len(requests)} requests add up to {items}, and {ITEMS} are the most in one call; ask for "
            "fewer items, or send the requests in several calls."
        )
    if events > EVENTS:
        raise RequestError(
            f"the histories of {len(requests)} requests hold {events} events, and {EVENTS} are the most in one call; "
            "send the requests in several calls."
        )
    listed = sum(len(request.allow or []) + len(request.block) for request in requests)
    if listed > LISTS:
        raise RequestError(
            f"the `allow` and `block` of {len(requests)} requests hold {listed} ids, and {LISTS} are the most in one "
            "call; send the requests in several calls."
        )
