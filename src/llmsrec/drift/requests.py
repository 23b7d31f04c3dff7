"""The log of requests: JSON lines, plain or gzip, a line a request that a service answered.

    {"time": 1764000000000, "user": "9f2c", "tower": "cf",
     "history": [{"parent_asin": "B00A", "timestamp": 1391040000000}, ...]}            (in one line)

`time` is when it came, ms since epoch or ISO 8601; `user`, a keyed hash of the user's id, may be missing or null: then
each line counts as another user. `history` is as it was sent, and read as the service read it: times in ISO 8601, too,
and where no event has one, the present, which was `time`. Other fields (status, latency, the answer) are allowed and
not read. A service logs a share of its requests, drawn by user.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from llmsrec.data.json_lines import blocks
from llmsrec.errors import DataError
from llmsrec.scoring.histories import BYTES, reason
from llmsrec.serving.schema import Events, as_ms, in_order
from llmsrec.times import of_iso

MOST = 50_000  # users; of more, those who came last
EXAMPLE = 'a line is {"time": 1764000000000, "user": "9f2c", "tower": "cf", "history": [{"parent_asin": "B00A", ...}]}'


class Logged(BaseModel):
    """A line of the log."""

    model_config = ConfigDict(extra="ignore", strict=True)

    time: Annotated[int, BeforeValidator(as_ms)]
    user: str | None = None
    tower: str
    history: Events

    @model_validator(mode="before")
    @classmethod
    def present_is_when_it_came(cls, line: Any) -> Any:
        """A history without times has that of the request, as it had when the service answered."""
        came = line.get("time") if isinstance(line, dict) else None
        came = of_iso(came) if isinstance(came, str) else came
        return {**line, "history": in_order(line.get("history"), came)} if isinstance(came, int) else line


def read(path: Path) -> list[tuple[list[str], list[int]]]:
    """Each user's last history: ids of items and times in ms.

    Raises:
        DataError: not a file, or a line that is not a request; file, line and reason are named.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; --requests takes a log of requests, .jsonl or .jsonl.gz.")
    last: dict[str | int, tuple[list[str], list[int]]] = {}
    for first, _, text in blocks(path, BYTES):
        for number, line in enumerate(text.splitlines(), start=first):
            if not line.strip():
                continue
            try:
                logged = Logged.model_validate_json(line)
            except ValidationError as error:
                raise DataError(f"{path}, line {number}: {reason(error)}; {EXAMPLE}.") from error
            user = number if logged.user is None else logged.user
            last.pop(user, None)
            last[user] = [e.parent_asin for e in logged.history], [e.timestamp for e in logged.history]
            if len(last) > MOST:
                del last[next(iter(last))]
    return list(last.values())
