"""The one rule for times: ms since 1970 in raw files and in requests, refused in the same words.

A request may say them in ISO 8601, too.
"""

import re
from datetime import UTC, datetime, timedelta

# Times outside are not milliseconds: seconds of any year before 2109 lie below, microseconds above.
EARLIEST = 631_152_000_000  # 1990-01-01, ms
LATEST = 4_102_444_800_000  # 2100-01-01, ms

OUTSIDE = "outside the years 1990 to 2100; it must be ms since 1970"
ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def are_ms(earliest: int, latest: int | None = None) -> bool:
    """Whether a time, or all from `earliest` to `latest`, can be milliseconds since 1970."""
    return earliest >= EARLIEST and (earliest if latest is None else latest) <= LATEST


def of_iso(text: str) -> int | None:
    """A date or a time of ISO 8601, such as 2014-01-30 or 2014-01-30T12:00:00Z, in ms since 1970; None for other text.

    Without a zone it is UTC, and a date alone is its beginning. What follows the milliseconds is dropped.
    """
    if not ISO.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):  # no such day or hour
        return None
