"""Blocks of whole lines, and lines to rows: the fast path against the plain one."""

import gzip
import hashlib
import json
from codecs import BOM_UTF8
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data import json_lines
from llmsrec.data.layouts import ITEMS, REVIEWS
from llmsrec.errors import DataError
from llmsrec.files import sha256
from llmsrec.times import EARLIEST, LATEST

NOW = 1_391_040_000_000


def review(user="u", item="i", timestamp=NOW, **fields):
    """A review with the fields that a raw file has."""
    fields = {"rating": 4.0, "title": "fine", "text": "I like it", "images": [{"small": "x"}], **fields}
    return {**fields, "parent_asin": item, "user_id": user, "timestamp": timestamp}


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(1, 200), st.booleans())
def test_blocks_are_whole_lines_wherever_a_read_ends(tmp_path_factory, lengths, size, last_newline):
    content = b"\n".join(b"x" * length for length in lengths) + b"\n" * last_newline
    path = tmp_path_factory.mktemp("blocks") / "file"
    path.write_bytes(content)
    parts = list(json_lines.blocks(path, size))
    assert b"".join(of.lines for of in parts) == content
    assert all(of.lines.endswith(b"\n") for of in parts[:-1])
    assert [of.size for of in parts] == [len(of.lines.splitlines()) for of in parts]
    assert [of.first for of in parts] == [1 + sum(of.size for of in parts[:place]) for place in range(len(parts))]


@pytest.mark.parametrize("bom", [b"", BOM_UTF8])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_digest_gets_all_bytes_of_the_file_and_blocks_those_behind_its_mark(tmp_path, pack, bom):
    content = b"{}\n" * 1_000_000
    (tmp_path / "file").write_bytes(pack(bom + content))
    for size in (1 << 12, 1 << 23):
        digest = hashlib.sha256()
        assert b"".join(of.lines for of in json_lines.blocks(tmp_path / "file", size, digest)) == content
        assert digest.hexdigest() == sha256(tmp_path / "file")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.just(NOW),
    st.just(10**30),
    st.floats(),
    st.text(max_size=3),
    st.just("\ud800"),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=2), st.just("\ud800")), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)
FIELDS = ["user_id", "parent_asin", "rating", "timestamp", "title", "store", "categories", "main_category"]
LINES = st.one_of(
    st.builds(review, st.text(min_size=1, max_size=3), timestamp=st.integers(EARLIEST, LATEST)).map(json.dumps),
    st.builds(review, rating=st.none() | st.floats() | st.integers(0, 5)).map(json.dumps),
    st.just(json.dumps({"user_id": "u", "parent_asin": "i", "timestamp": NOW})),
    st.dictionaries(st.sampled_from(FIELDS), VALUES).map(json.dumps),
    st.sampled_from(
        ["", "  ", "null", "[1]", "{", '{"a":1}{"b":2}', '{"user_id": "a\tb"}', '{"text": NaN}', "\ufeff{}"]
    ),
)


@given(st.lists(LINES, max_size=4), st.booleans(), st.sampled_from([REVIEWS, ITEMS]))
def test_fast_path_equals_the_plain_one(lines, last_newline, layout):
    content = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n" * last_newline
    block = json_lines.Block(1, content.count(b"\n") + (not last_newline), content)
    try:
        expected = json_lines.parse_lines(content, layout, Path("file"), 1)
    except DataError as error:
        with pytest.raises(DataError) as fast:
            json_lines.parse_block(block, layout, Path("file"))
        assert str(fast.value) == str(error)
    else:
        assert json_lines.parse_block(block, layout, Path("file")).to_pylist() == expected.to_pylist()


def test_a_file_without_lines_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 1 << 20)
    (tmp_path / "A.jsonl").write_bytes(b"x" * (3 << 20))
    with pytest.raises(DataError, match="line 1 is longer than 1 MB"):
        list(json_lines.blocks(tmp_path / "A.jsonl", 1 << 18))
