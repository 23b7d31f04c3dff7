"""The times of an export as ms since 1970.

A whole column is read in one way: as numbers in s, ms, us or ns, as ISO 8601, or by a stated format. Without a
statement it is the way that suits most of the column's values; a value that it does not suit is refused, never read in
another way. A number suits a unit if it then lies in the years 1990 to 2100; no number suits two.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from llmsrec.errors import DataError, RequestError, shown
from llmsrec.times import EARLIEST, LATEST

UNITS = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("1e-3"), "ns": Decimal("1e-6")}  # ms in each
ISO = "iso"
SEVERAL = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", ISO: "ISO 8601"}

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d{1,2})?")
DATE = r"\d{4}-\d{2}-\d{2}"
CLOCK = r"\d{2}(?::\d{2}(?::\d{2}(?:[.,]\d+)?)?)?"
ZONE = r"Z|z|UTC|[+-]\d{2}(?::?\d{2})?"
ISO_TIME = re.compile(rf"({DATE})(?:[T ]({CLOCK}))?\s?({ZONE})?")

# What a value that suits no way may have been written by; never taken without being stated.
FORMATS = (
    (r"\d{1,2}\.\d{1,2}\.\d{4}", ("%d.%m.%Y",)),
    (r"\d{1,2}/\d{1,2}/\d{4}", ("%d/%m/%Y", "%m/%d/%Y")),
    (r"\d{4}/\d{1,2}/\d{1,2}", ("%Y/%m/%d",)),
    (r"\d{8}", ("%Y%m%d",)),
)
CLOCKS = (
    ("", ""),
    (r" \d{1,2}:\d{2}", " %H:%M"),
    (r" \d{1,2}:\d{2}:\d{2}", " %H:%M:%S"),
    (r" \d{1,2}:\d{2} [AaPp][Mm]", " %I:%M %p"),
    (r" \d{1,2}:\d{2}:\d{2} [AaPp][Mm]", " %I:%M:%S %p"),
)


@dataclass(frozen=True)
class TimeFormat:
    """How a column of times is read.

    Attributes:
        kind: s, ms, us, ns, or `ISO`; with `form`, not used.
        form: strptime's directives, such as %d.%m.%Y; None where `kind` says it.
        zone: of times that state none.
    """

    kind: str
    form: str | None = None
    zone: str = "UTC"

    def rule(self) -> str:
        """One line for people."""
        if self.form is None and self.kind in UNITS:
            return f"{SEVERAL[self.kind]} since 1970"
        what = SEVERAL[self.kind] if self.form is None else f"--time-format {self.form!r}"
        return f"{what}, times without a zone in {self.zone}"


def check_zone(zone: str) -> None:
    """
    Raises:
        RequestError: polars' time zone database does not know it.
    """
    try:
        pl.Series([datetime(2000, 1, 1)]).dt.replace_time_zone(zone)
    except pl.exceptions.PolarsError as error:
        raise RequestError(f"--time-zone {zone!r} is unknown; write it as Europe/Berlin or UTC.") from error


def check_form(form: str) -> None:
    """
    Raises:
        RequestError: a time that is written by the format cannot be read by it.
    """
    moment = pl.Series([datetime(2001, 2, 3, 16, 5)])
    try:
        back = moment.dt.replace_time_zone("UTC").dt.strftime(form).str.to_datetime(form, strict=False)
        works = back[0] is not None and back.dt.date()[0] == moment.dt.date()[0]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        works = False
    if not works:
        raise RequestError(
            f"--time-format {form!r} tells no day, or hours without minutes; write it as '%d.%m.%Y %H:%M' or '%Y%m%d'."
        )


def suits(values: pl.Series) -> Counter[str]:
    """How many of the values (text) suit each way."""
    text = values.str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    counts = {
        unit: int(numbers.is_between(EARLIEST / float(ms), LATEST / float(ms)).sum()) for unit, ms in UNITS.items()
    }
    return Counter({**counts, ISO: int(text.str.contains(f"^{DATE}").sum())})


def choose(counts: Counter[str], zone: str, example: str) -> TimeFormat:
    """The way that suits most values.

    Args:
        example: a value, for the message.

    Raises:
        DataError: none suits any.
    """
    (kind, count) = max(counts.items(), key=lambda item: item[1], default=(ISO, 0))
    if count == 0:
        raise DataError(
            f"no value of the column of times is a number in s, ms, us or ns of the years 1990 to 2100, or ISO 8601; "
            f"{shown(example)} is one of them. {format_hint(example)}"
        )
    return TimeFormat(kind, zone=zone)


def to_ms(values: pl.Series, time_format: TimeFormat) -> pl.Series:
    """The times as ms since 1970, rounded down (int64); null where a value does not suit the way."""
    text = values.str.strip_chars()
    if time_format.form is not None:
        parsed = text.str.to_datetime(time_format.form, time_unit="us", strict=False)
        milliseconds = _since_1970(_at_zone(parsed, time_format.zone) if parsed.dtype.time_zone is None else parsed)  # type: ignore[attr-defined]
    elif time_format.kind == ISO:
        milliseconds = _iso(text, time_format.zone)
    else:
        milliseconds = _numbers(text, UNITS[time_format.kind])
    return pl.select(pl.when(milliseconds.is_between(EARLIEST, LATEST)).then(milliseconds)).to_series()


def why(value: str, time_format: TimeFormat) -> str:
    """Why `to_ms` gives nothing for a value, and what to do."""
    text = value.strip()
    for unit, ms in UNITS.items():
        number = number_ms(text, ms)
        if time_format.form is None and number is not None and EARLIEST <= number <= LATEST:
            return (
                f"time is {shown(value)}, which suits {SEVERAL[unit]} where the column has {SEVERAL[time_format.kind]}"
            )
    if time_format.form is not None:
        return f"time is {shown(value)}, which is not {time_format.form!r} or not in the years 1990 to 2100"
    if time_format.kind == ISO:
        moment = iso_us(text)
        if moment is None:
            return f"time is {shown(value)}, not ISO 8601 (2024-12-31 18:30:00) where the column has that"
        if _since_1970(_at_zone(pl.Series([moment[0]]), time_format.zone))[0] is None:
            return f"time is {shown(value)}, which the clocks of {time_format.zone} leave out"
    elif number_ms(text, UNITS[time_format.kind]) is None:
        return f"time is {shown(value)}, not a number where the column has {SEVERAL[time_format.kind]}"
    return f"time is {shown(value)}, as {SEVERAL[time_format.kind]} outside the years 1990 to 2100"


def remedy(time_format: TimeFormat) -> str:
    """What to do about a value that does not suit."""
    if time_format.form is not None:
        return "mend it, or state another --time-format"
    return "mend it, or state how the whole column is written with --time-unit or --time-format"


def day(milliseconds: int) -> str:
    """The date of a time, for people."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date().isoformat()


def format_hint(value: str) -> str:
    """The formats that a value may have been written by, as a sentence."""
    for date, formats in FORMATS:
        for clock, tail in CLOCKS:
            if re.fullmatch(date + clock, value.strip()):
                options = " or ".join(f"--time-format '{form}{tail}'" for form in formats)
                return f"State how it is written: {options}."
    return "State how it is written with --time-format, such as '%d.%m.%Y %H:%M', or the unit with --time-unit."


def number_ms(text: str, ms: Decimal) -> int | None:
    """A number in units of `ms` ms each, as ms rounded down; None if it is no number."""
    return int((Decimal(text) * ms).to_integral_value("ROUND_FLOOR")) if NUMBER.fullmatch(text) else None


def iso_us(text: str) -> tuple[datetime, bool] | None:
    """An ISO 8601 time without its zone (then in UTC), and whether it stated one; None if it is none."""
    match = ISO_TIME.fullmatch(text)
    if match is None:
        return None
    date, clock, zone = match.groups()
    zone = "+00:00" if zone in ("Z", "z", "UTC") else zone or ""
    try:
        moment = datetime.fromisoformat(f"{date}T{clock or '00'}{zone}")
    except ValueError:
        return None
    try:
        return moment.astimezone(UTC).replace(tzinfo=None) if zone else moment, bool(zone)
    except OverflowError:
        return None


def _numbers(text: pl.Series, ms: Decimal) -> pl.Series:
    whole = text.cast(pl.Int64, strict=False)
    near = whole.is_between(int(EARLIEST / ms), int(LATEST / ms))  # what is outside could overflow
    whole = pl.select(pl.when(near).then(whole)).to_series()
    milliseconds = whole * int(ms) if ms >= 1 else whole // int(1 / ms)
    return _patched(milliseconds, text, lambda value: number_ms(value, ms))


def _iso(text: pl.Series, zone: str) -> pl.Series:
    """Arrow reads a column in which all or none of the times state a zone; others are read one by one."""
    column = text.to_arrow()
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us")):
        try:
            moments = pl.Series(pc.cast(column, kind))
        except pa.ArrowInvalid:
            continue
        return _since_1970(moments if kind.tz else _at_zone(moments, zone))
    pairs = [None if value is None else iso_us(value) for value in text.to_list()]
    moments = pl.Series([pair and pair[0] for pair in pairs], dtype=pl.Datetime("us"))
    stated = pl.Series([bool(pair and pair[1]) for pair in pairs], dtype=pl.Boolean)
    in_utc, local = _since_1970(moments), _since_1970(_at_zone(moments, zone))
    return pl.select(pl.when(stated).then(in_utc).otherwise(local)).to_series()


def _at_zone(moments: pl.Series, zone: str) -> pl.Series:
    """Local times in UTC: the earlier of two that the clocks show, null for one that they leave out."""
    return moments if zone == "UTC" else moments.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")


def _since_1970(moments: pl.Series) -> pl.Series:
    return moments.cast(pl.Int64) // (timedelta(milliseconds=1) // timedelta(microseconds=1))


def _patched(values: pl.Series, text: pl.Series, read: Callable[[str], int | None]) -> pl.Series:
    """`values` with nulls read by `read` where there is text; what does not fit int64 stays null."""
    empty = (values.is_null() & text.is_not_null()).arg_true()
    if len(empty) == 0:
        return values
    rest = [
        number if number is not None and abs(number) < 1 << 62 else None for number in map(read, text.gather(empty))
    ]
    return values.scatter(empty, pl.Series(rest, dtype=pl.Int64))
