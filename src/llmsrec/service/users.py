"""Histories that the service has itself: `POST /users/{id}` needs none in the request."""

import json
from pathlib import Path

import polars as pl

from llmsrec.errors import RequestError
from llmsrec.service.decode import INVOCATIONS, Call, Refused
from llmsrec.serving import limits

HISTORY = "history"


class Users:
    """Users' last events, in memory.

    Args:
        events: `user_id`, `parent_asin` (null: none) and `timestamp` in ms.
    """

    def __init__(self, events: pl.DataFrame) -> None:
        event = pl.struct("parent_asin", "timestamp").filter(pl.col("parent_asin").is_not_null())
        grouped = events.sort("timestamp", maintain_order=True).group_by("user_id").agg(event.tail(limits.HISTORY))
        self._rows = {user: row for row, user in enumerate(grouped["user_id"])}
        self._histories = grouped["parent_asin"]

    @classmethod
    def read(cls, path: Path) -> "Users":
        """Of a file such as `llmsrec score --histories` reads.

        Raises:
            DataError: it cannot be read; the message names row or line, value, remedy.
            RequestError: what reads it is not installed here.
        """
        try:
            from llmsrec.scoring.histories import SCHEMA, of_file
        except ModuleNotFoundError as error:
            raise RequestError(f"--users {path} cannot be read where {error.name} is not installed.") from error
        return cls(pl.concat([pl.DataFrame(schema=SCHEMA), *of_file(path).blocks()]))

    def call(self, user: str, sent: Call) -> Call:
        """The call that a request without a history stands for.

        Raises:
            Refused: the request has a history, or there is no such user.
        """
        (request,) = sent.requests
        if HISTORY in request:
            raise Refused(400, "`history` is not a field here; send it to /invocations")
        if user not in self._rows:
            raise Refused(404, "the service has no such user; send the history to /invocations")
        whole = request | {HISTORY: self._histories[self._rows[user]].to_list()}
        return Call(json.dumps({"inputs": [whole]}).encode(), sent.towers, [whole], INVOCATIONS, alone=True)
