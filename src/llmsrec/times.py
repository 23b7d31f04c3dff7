"""The one rule for times: ms since 1970 in raw files and in requests, refused in the same words."""

# Times outside are not milliseconds: seconds of any year before 2109 lie below, microseconds above.
EARLIEST = 631_152_000_000  # 1990-01-01, ms
LATEST = 4_102_444_800_000  # 2100-01-01, ms

OUTSIDE = "outside the years 1990 to 2100; it must be ms since 1970"


def are_ms(earliest: int, latest: int | None = None) -> bool:
    """Whether a time, or all from `earliest` to `latest`, can be milliseconds since 1970."""
    return earliest >= EARLIEST and (earliest if latest is None else latest) <= LATEST
