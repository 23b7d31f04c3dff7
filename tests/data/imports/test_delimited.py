"""CSV in blocks: the fast path is the slow one, wherever a block ends."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data.imports import delimited, text
from llmsrec.data.imports.delimited import Columns, Dialect
from llmsrec.data.imports.refusals import Refusals
from llmsrec.errors import DataError

PATH = Path("orders.csv")
WANTED = Columns(3, {"user": 0, "time": 2})
DIALECTS = [Dialect(","), Dialect(";", "'"), Dialect("\t", None), Dialect("|")]

# Short texts in which everything that means something to a reader of CSV comes often.
MEANING = ["a", "é", " ", ",", ";", "\t", "|", '"', "'", "\n", "\r", "\r\n", "\0"]
PIECES = ['"', ",", "\n", "a", "é", "\r", "b,c,d\n", '"x",y,"z"\n', "\0"]
ODD = st.lists(st.sampled_from(MEANING), max_size=12).map("".join)
DOCUMENTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.lists(ODD, min_size=3, max_size=3), max_size=8).map(lambda rows: quoted(rows, Dialect(","))),
)


def quoted(rows: list[list[str]], dialect: Dialect, end: str = "\n") -> str:
    """What Python's csv module writes."""
    out = io.StringIO()
    writer = csv.writer(out, dialect="unix", delimiter=dialect.delimiter, quotechar=dialect.quote, lineterminator=end)
    writer.writerows(rows)
    return out.getvalue()


def outcome(parse, data: bytes, dialect: Dialect, first_line: int = 1):
    """The table and what was refused, or the error."""
    refusals = Refusals(skip=True)
    try:
        table = parse(data, dialect, WANTED, PATH, first_line, refusals)
    except DataError as error:
        return str(error)
    return table.to_pydict(), refusals.count, refusals.examples


@given(DOCUMENTS, st.sampled_from(DIALECTS), st.integers(1, 9))
def test_the_fast_path_is_the_slow_one(document, dialect, first_line):
    data = document.encode()
    fast = outcome(delimited.parse_block, data, dialect, first_line)
    assert fast == outcome(delimited.parse_rows, data, dialect, first_line)


@given(DOCUMENTS, st.sampled_from(DIALECTS), st.integers(1, 9))
def test_blocks_give_the_rows_of_the_whole_file(tmp_path_factory, document, dialect, size):
    path = tmp_path_factory.mktemp("blocks") / "orders.csv"
    path.write_bytes(document.encode())
    if not document:
        return
    whole = outcome(delimited.parse_rows, document.removeprefix("\ufeff").encode(), dialect)
    if isinstance(whole, str):
        return  # which error comes first may depend on the blocks
    users, lines, refused = [], [], Refusals(skip=True)
    original, text.CHUNK = text.CHUNK, size
    try:
        source = text.Text(path)
        for line, block in text.records(source, lambda data, first: delimited.cut(data, first, dialect, path)):
            table = delimited.parse_block(block, dialect, WANTED, PATH, line, refused)
            users += table["user"].to_pylist()
            lines += table["line"].to_pylist()
    finally:
        text.CHUNK = original
    assert (users, lines, refused.count) == (whole[0]["user"], whole[0]["line"], whole[1])


@given(st.lists(st.lists(ODD, min_size=3, max_size=3), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_comes_back(rows, end):
    rows = [[field.replace("\0", "") for field in row] for row in rows]
    data = quoted(rows, Dialect(","), end).encode()
    table = delimited.parse_block(data, Dialect(","), WANTED, PATH, 1, Refusals(skip=False))
    assert table["user"].to_pylist() == [row[0] for row in rows]
    assert table["time"].to_pylist() == [row[2] for row in rows]


def test_a_row_has_the_number_of_its_first_line():
    data = b'a,b,c\n"x\ny\nz",b,c\n\n\r\nd,b,c'
    for parse in (delimited.parse_block, delimited.parse_rows):
        table = parse(data, Dialect(","), WANTED, PATH, 10, Refusals(False))
        assert table["line"].to_pylist() == [10, 11, 16]


def test_an_inch_mark_in_a_field_without_quotes_is_text():
    data = b'u,27" screen, flat\nv,3" pipe,"1\n2"\n'
    table = delimited.parse_block(data, Dialect(","), Columns(3, {"item": 1}), PATH, 1, Refusals(False))
    assert table["item"].to_pylist() == ['27" screen', '3" pipe']
    assert delimited.cut(data + b'w,"', 1, Dialect(","), PATH) == len(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'a,b,c\nd,"e,f\ng,h,i\n', "line 2: a quote is opened in this row and not closed"),
        (b'a,b,c\n"27" screen",b,c\n', "line 2: text follows a closing quote"),
        (b"a,b,c\nd,e\rf,g\n", "line 2 holds a carriage return that ends no line"),
        (b"a,b,c\nd,\0,f\n", "line 2 holds a NUL byte; if the file is UTF-16"),
        (b"a,b,c\n\nd,e\n", "line 3: it has 2 fields, the header 3; put quotes around a field"),
        (b"a,b,c\nd,e,f,g\n", "line 2: it has 4 fields, the header 3"),
    ],
)
def test_a_broken_row_is_named_by_its_line(data, message):
    with pytest.raises(DataError) as error:
        delimited.parse_block(data, Dialect(","), WANTED, PATH, 1, refused := Refusals(skip=False))
        refused.check()
    assert message in str(error.value)


def test_an_unclosed_quote_ends_before_the_memory_does(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "LONGEST_RECORD", 1000)
    monkeypatch.setattr(text, "CHUNK", 100)
    path = tmp_path / "orders.csv"
    path.write_bytes(b'a,b,c\nd,"e,f\n' + b"g,h,i\n" * 1000)
    with pytest.raises(DataError, match=r"line 2: what begins here has no end within .* a quote is opened"):
        for _ in text.records(text.Text(path), lambda data, line: delimited.cut(data, line, Dialect(","), path)):
            pass


@pytest.mark.parametrize(
    ("start", "names", "delimiter", "before"),
    [
        ("a,b;c,d\n1,2;3,4\n", ["a", "b;c", "d"], ",", 1),
        ("\n\n a ;b; c\r\n", ["a", "b", "c"], ";", 3),
        ("sep=|\na|b\n", ["a", "b"], "|", 2),
        ("SEP=\t\r\na,b\tc\r\n", ["a,b", "c"], "\t", 2),
        ('"a, b"\t"c\nd"\te\n', ["a, b", "c\nd", "e"], "\t", 2),
        ("a|b|c", ["a", "b", "c"], "|", 1),
    ],
)
def test_the_header_tells_the_delimiter(start, names, delimiter, before):
    assert delimited.header(PATH, start, None, '"') == (names, Dialect(delimiter), before)


def test_a_header_of_one_column_is_an_error():
    with pytest.raises(DataError, match=r"not a header of several columns .* state what is between them"):
        delimited.header(PATH, "user item time\n1 2 3\n", None, '"')
    with pytest.raises(DataError, match="--delimiter cuts the first line"):
        delimited.header(PATH, "user;item\n", Dialect(","), '"')
    assert delimited.header(PATH, "user item\n", Dialect(" "), '"')[0] == ["user", "item"]
    assert delimited.header(PATH, "sep=;\nuser item\n", Dialect(" "), '"')[0] == ["user", "item"]
