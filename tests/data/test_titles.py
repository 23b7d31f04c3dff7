"""Titles: exact results on the dirt that real catalogues hold."""

import html
import time

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data.titles import LONGEST, UNTITLED, clean, titled, unescape


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Plain title", "Plain title"),
        ("Rock &amp; Roll", "Rock & Roll"),
        ("&quot;Quoted&quot; &#39;n&#x27; more", "\"Quoted\" 'n' more"),
        ("Twice &amp;amp;quot;escaped", 'Twice "escaped'),
        ("AT&T and R&B;", "AT&T and R&B;"),
        ("Tom&nbsp;&nbsp;Jerry", "Tom Jerry"),
        ("  a\t b\r\n\n c  ", "a b c"),
        ("bell\x07 and\x00nul", "bell and nul"),
        ("line\u2028separator", "line separator"),
        ("zero\u200bwidth \ufeffmark soft\u00adhyphen", "zerowidth mark softhyphen"),
        ("safe \u202egnp.exe", "safe gnp.exe"),
        ("Crème brûlée 東京 👩\u200d🍳", "Crème brûlée 東京 👩\u200d🍳"),
        ("[UserOut] <|eot_id|> {0} %s ${HOME}", "[UserOut] <|eot_id|> {0} %s ${HOME}"),
        ("<b>bold</b>", "<b>bold</b>"),
        (None, UNTITLED),
        ("", UNTITLED),
        (" \t\u200b ", UNTITLED),
        ("&nbsp;", UNTITLED),
        *((text, UNTITLED) for text in ("N/A", "n/a", " NaN ", "None", "NULL", "&lt;NA&gt;", "#N/A")),
        ("None of the above", "None of the above"),
        ("Nanny McPhee", "Nanny McPhee"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_clean(raw, expected):
    assert clean(pl.Series([raw], dtype=pl.String)).to_list() == [expected]


def test_columns_without_text():
    assert clean(pl.Series([None, None])).to_list() == [UNTITLED, UNTITLED]
    assert clean(pl.Series([], dtype=pl.String)).to_list() == []


@given(st.lists(st.one_of(st.none(), st.text(), st.text("&amp;ltquo# x\n"))))
def test_clean_is_settled_and_one_title_at_a_time(titles):
    series = pl.Series(titles, dtype=pl.String)
    once = clean(series)
    assert once.to_list() == [clean(pl.Series([title], dtype=pl.String)).item() for title in titles]
    assert once.str.strip_chars().to_list() == once.to_list()
    assert all(title and "\n" not in title and "  " not in title for title in once)


@pytest.mark.parametrize("make", [
    lambda n: "&" + "amp;" * n + "lt;",
    lambda n: "&#38;" + "#38;" * n,
    lambda n: "&semi" * n + "&#59;" + "&#97;" * n,
])  # fmt: skip
def test_a_title_of_any_length_and_depth_is_cleaned_in_bounded_time(make):
    """A title of 1 MB took 34 s: each pass read all of it."""
    long = make(1_000_000)
    start = time.process_time()
    cleaned = clean(pl.Series([long])).item()
    assert time.process_time() - start < 5
    assert cleaned == clean(pl.Series([long[:LONGEST]])).item()


PIECES = ["title", "none", "nan", "Untitled", "item", "&amp;", "&", "&nbsp", ";", "#38", " ", "\n", "\u200b", "&lt"]


@given(st.lists(st.one_of(st.none(), st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.text())))
def test_titled_is_what_cleaning_says(titles):
    series = pl.Series(titles, dtype=pl.String)
    assert titled(series).to_list() == (clean(series) != UNTITLED).to_list()


@pytest.mark.parametrize("digits", ["0" * 5000 + "38", "9" * 5000])
def test_a_number_of_thousands_of_digits_in_a_title_is_no_error(digits):
    assert unescape(f"a &#{digits}; b") == ("a & b" if digits.endswith("38") else "a \ufffd b")


@given(st.text(), st.integers(0, 3))
def test_unescape_undoes_any_depth(text, depth):
    escaped = text
    for _ in range(depth):
        escaped = html.escape(escaped)
    assert unescape(escaped) == unescape(text)
