"""Times: the fast path is the plain one, and a column is read in one way."""

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data.imports import times
from llmsrec.data.imports.times import TimeFormat
from llmsrec.errors import DataError, RequestError
from llmsrec.times import EARLIEST, LATEST

NOW = 1_391_040_000_123  # ms


def plain(text: str, time_format: TimeFormat) -> int | None:
    """One value, by Python alone."""
    text = text.strip()
    if time_format.kind == "iso":
        moment = times.iso_us(text)
        if moment is None:
            return None
        local = moment[0].replace(tzinfo=UTC if moment[1] else ZoneInfo(time_format.zone))
        if not moment[1] and local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) != moment[0]:
            return None  # the clocks leave it out
        since = local.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        milliseconds = (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
    else:
        number = times.number_ms(text, times.UNITS[time_format.kind])
        if number is None:
            return None
        milliseconds = number
    return milliseconds if EARLIEST <= milliseconds <= LATEST else None


MOMENTS = st.datetimes(datetime(1985, 1, 1), datetime(2105, 1, 1))
ISO = st.one_of(
    MOMENTS.map(lambda moment: moment.isoformat()),
    MOMENTS.map(lambda moment: moment.isoformat(" ", "seconds")),
    MOMENTS.map(lambda moment: moment.isoformat(" ", "minutes")),
    MOMENTS.map(lambda moment: f"{moment:%Y-%m-%d %H}"),
    MOMENTS.map(lambda moment: moment.date().isoformat()),
    st.tuples(MOMENTS, st.sampled_from(["Z", "+02:00", "-0730", "+14", " UTC", " Z", "+99:99"])).map(
        lambda pair: pair[0].isoformat() + pair[1]
    ),
    st.text(st.sampled_from("0123456789-:T Z+."), max_size=20),
    st.sampled_from(["2023-02-30", "2023-13-01", "0000-01-01", "2024-03-31 02:30", "2024-10-27 02:30", "9999-12-31"]),
)
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.integers(EARLIEST - 1, LATEST + 1).map(str),
    st.integers(EARLIEST // 1000 - 1, LATEST // 1000 + 1).map(str),
    st.decimals(600_000_000, 4_200_000_000, places=4).map(str),
    st.sampled_from(["", " 1391040000 ", "+1391040000", "1.39104e9", "1e99", "nan", "inf", "1_391_040_000", "0x5"]),
)


@given(st.lists(ISO, min_size=1, max_size=6), st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
def test_iso_is_read_as_python_reads_it(values, zone):
    time_format = TimeFormat("iso", zone=zone)
    assert times.to_ms(pl.Series(values), time_format).to_list() == [plain(value, time_format) for value in values]


@given(st.lists(NUMBERS, min_size=1, max_size=6), st.sampled_from(["s", "ms", "us", "ns"]))
def test_numbers_are_read_as_decimals(values, unit):
    time_format = TimeFormat(unit)
    assert times.to_ms(pl.Series(values), time_format).to_list() == [plain(value, time_format) for value in values]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_a_column_is_that_of_most_values(unit):
    per_ms = {"s": Decimal("0.001"), "ms": Decimal(1), "us": Decimal(1000), "ns": Decimal(1_000_000)}[unit]
    values = pl.Series([str(int(ms * per_ms)) for ms in (NOW, EARLIEST, LATEST - 1000)])
    counts = times.suits(values)
    assert counts[unit] == 3 and sum(counts.values()) == 3
    assert times.choose(counts, "UTC", values[0]) == TimeFormat(unit)
    assert times.to_ms(values, TimeFormat(unit))[0] == (NOW if unit != "s" else NOW // 1000 * 1000)


def test_a_stray_value_does_not_change_the_unit_and_is_explained():
    values = pl.Series(["1391040000"] * 3 + ["1391040000123", "-5", "0", "2024-01-01", "soon"])
    time_format = times.choose(times.suits(values), "UTC", "")
    assert time_format == TimeFormat("s")
    assert times.to_ms(values, time_format).to_list() == [1_391_040_000_000] * 3 + [None] * 5
    assert "suits milliseconds where the column has seconds" in times.why("1391040000123", time_format)
    assert "as seconds outside the years 1990 to 2100" in times.why("-5", time_format)
    assert "not a number where the column has seconds" in times.why("soon", time_format)
    assert "not ISO 8601" in times.why("soon", TimeFormat("iso"))
    assert "the clocks of Europe/Berlin leave out" in times.why(
        "2024-03-31 02:30", TimeFormat("iso", zone="Europe/Berlin")
    )


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("24.12.2025 18:30", "--time-format '%d.%m.%Y %H:%M'"),
        ("3/4/2025", "--time-format '%d/%m/%Y' or --time-format '%m/%d/%Y'"),
        ("12/24/2025 6:30 PM", "'%d/%m/%Y %I:%M %p' or --time-format '%m/%d/%Y %I:%M %p'"),
        ("20251224", "--time-format '%Y%m%d'"),
        ("Christmas", "--time-format, such as"),
    ],
)
def test_days_and_months_are_never_guessed(value, hint):
    with pytest.raises(DataError) as error:
        times.choose(times.suits(pl.Series([value])), "UTC", value)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("form", "value", "moment"),
    [
        ("%d.%m.%Y %H:%M", "24.12.2025 18:30", datetime(2025, 12, 24, 17, 30)),
        ("%d.%m.%Y", "1.7.2025", datetime(2025, 6, 30, 22)),
        ("%m/%d/%Y %I:%M %p", "12/24/2025 06:30 PM", datetime(2025, 12, 24, 17, 30)),
        ("%d.%m.%Y %H:%M %z", "24.12.2025 18:30 -0500", datetime(2025, 12, 24, 23, 30)),
        ("%Y%m%d", "20251224", datetime(2025, 12, 23, 23)),
    ],
)
def test_a_stated_format_in_a_zone(form, value, moment):
    times.check_form(form)
    time_format = TimeFormat("format", form, "Europe/Berlin")
    milliseconds = times.to_ms(pl.Series([value, "31.02.2025", "x", "2025-12-24"]), time_format).to_list()
    assert milliseconds == [int(moment.replace(tzinfo=UTC).timestamp()) * 1000, None, None, None]
    assert form in times.why("x", time_format)


def test_an_unknown_zone_is_an_error():
    with pytest.raises(RequestError, match="--time-zone 'Berlin' is unknown"):
        times.check_zone("Berlin")
