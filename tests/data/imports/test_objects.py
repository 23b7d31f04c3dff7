"""JSON lines and Python literals: the fast path is the slow one."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmsrec.data.imports import objects
from llmsrec.data.imports.refusals import Refusals
from llmsrec.errors import DataError

PATH = Path("orders.jsonl")
FIELDS = {"user": "u", "item": "i", "time": "t", "title": "n", "category": "c"}

IDS = st.one_of(st.sampled_from(["a", "", "00123", "é/ü x"]), st.integers(-5, 10**15), st.just(1.5), st.none())
VALUES = st.one_of(IDS, st.booleans(), st.lists(st.sampled_from(["x", "y", None]), max_size=2), st.just({"k": 1}))
LINES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"u": IDS, "i": IDS, "t": IDS, "n": VALUES, "c": VALUES}),
        st.fixed_dictionaries({"u": st.just("u"), "i": st.integers(0, 9), "t": st.integers(0, 9)}),
        st.fixed_dictionaries({"u": st.just("u"), "i": st.just("7"), "t": st.just(1.5), "c": st.just(["x", "y"])}),
        st.dictionaries(st.sampled_from("uitnc"), VALUES),
    ).map(json.dumps)
    | st.sampled_from(["", "{", "null", '{"u": "\\ud800", "i": "x", "t": 1}']),
    max_size=6,
)


def number(time):
    """Times are numbers where they can be: 7 among times with fractions may be written as 7.0."""
    try:
        return float(time)
    except (TypeError, ValueError):
        return time


def outcome(parse):
    refusals = Refusals(skip=True)
    try:
        table = parse(refusals).to_pydict()
        return table | {"time": [number(time) for time in table["time"]]}, refusals.count, refusals.examples
    except DataError as error:
        return str(error)


@example(['{"u": "u", "i": "7", "t": 1.5, "c": ["x"]}', '{"t": 0}'], [])
@example(['{"u": "u", "i": "7", "t": 1, "n": 1.5, "c": ["x"]}', '{"n": 0}'], [])
@given(LINES, LINES)
def test_the_fast_path_is_the_slow_one(first, later):
    """The types that Arrow expects come from the first lines, whatever comes later."""
    try:
        types = objects.schema(PATH, "\n".join(first), python=False)
    except DataError:
        types = {}
    data = "".join(line + "\n" for line in [*first, *later]).encode()
    fast = outcome(lambda refusals: objects.parse_block(data, FIELDS, types, PATH, 3, refusals))
    assert fast == outcome(lambda refusals: objects.parse_lines(data, FIELDS, PATH, 3, refusals))


def test_numbers_become_text_and_lists_of_text_a_title():
    lines = [
        {"u": 7, "i": "007", "t": 1391040000.5, "n": ["Red", "shoe"], "c": [["Shoes", "Red"], ["Sale"]]},
        {"u": "ü/ x", "i": 10**15, "t": "2024-12-24", "n": 1984, "c": "Books"},
        {"u": "v", "i": "w", "t": None, "n": {"de": "Schuh"}, "c": None},
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    table = objects.parse_lines(data, FIELDS, PATH, 1, Refusals(skip=False))
    assert list(zip(*table.to_pydict().values(), strict=True)) == [
        ("7", "007", "1391040000.5", "Red shoe", ["Shoes", "Red"], 1),
        ("ü/ x", "1000000000000000", "2024-12-24", "1984", ["Books"], 2),
        ("v", "w", None, None, None, 3),
    ]


def test_python_literals_are_read_and_never_run():
    data = b"{'u': 'a', 'i': u'b', 't': 1, 'n': 'it\\'s \"new\"'}\n"
    table = objects.parse_lines(data, FIELDS, PATH, 1, Refusals(skip=False), python=True)
    assert table["title"].to_pylist() == ['it\'s "new"']
    for line in (b"{'u': __import__('os').getcwd()}", b"{'u': ", b"{'u': 1} + 2", b"(" * 500):
        with pytest.raises(DataError, match="line 5 is not a Python literal"):
            objects.parse_lines(line, FIELDS, PATH, 5, Refusals(skip=True), python=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"u": "a"', 'line 2 is not valid JSON: it ends too early, after "{'),
        ("[1]", "line 2 holds [1], not an object; write one object a line"),
        ('{"u": 1.0}', "line 2: user is 1.0, neither text nor a whole number"),
        ('{"u": true}', "line 2: user is true"),
        ('{"u": {"id": 3}}', 'line 2: user is {"id": 3}'),
        ('{"u": "\\ud800"}', "half a surrogate pair"),
    ],
)
def test_a_broken_line_is_named(line, message):
    with pytest.raises(DataError) as error:
        objects.parse_block(f"{{}}\n{line}\n".encode(), FIELDS, {}, PATH, 1, refused := Refusals(skip=False))
        refused.check()
    assert message in str(error.value)
