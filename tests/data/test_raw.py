"""Raw files to parquet: exact rows, and one clear error for each way in which a file can be broken."""

import gzip
import json
from codecs import BOM_UTF8
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.data import raw, titles
from llmsrec.data.layouts import ITEMS, REVIEWS
from llmsrec.errors import DataError

NOW = 1_391_040_000_000


def review(user="u", item="i", timestamp=NOW, **fields):
    """A review with the fields that a raw file has."""
    fields = {"rating": 4.0, "title": "fine", "text": "I like it", "images": [{"small": "x"}], **fields}
    return {**fields, "parent_asin": item, "user_id": user, "timestamp": timestamp}


def rows(path: Path) -> list[tuple]:
    return pl.read_parquet(path).rows()


@pytest.mark.parametrize("name", ["A.jsonl", "A.jsonl.gz"])
def test_reviews_keep_the_order_of_lines(write, tmp_path, name):
    path = write(name, [review("b", "y", NOW + 5), review("a", "x"), review("b", "y", NOW + 5), review("é", "z")])
    assert raw.convert(path, tmp_path / "out.parquet", REVIEWS) == 4
    assert rows(tmp_path / "out.parquet") == [
        ("b", "y", 4.0, NOW + 5),
        ("a", "x", 4.0, NOW),
        ("b", "y", 4.0, NOW + 5),
        ("é", "z", 4.0, NOW),
    ]


def test_the_content_tells_whether_a_file_is_compressed(tmp_path):
    line = json.dumps(review()).encode()
    (tmp_path / "plain.gz").write_bytes(line)
    (tmp_path / "compressed.jsonl").write_bytes(gzip.compress(line + b"\n") + gzip.compress(line))  # two members
    assert raw.convert(tmp_path / "plain.gz", tmp_path / "out.parquet", REVIEWS) == 1
    assert raw.convert(tmp_path / "compressed.jsonl", tmp_path / "out.parquet", REVIEWS) == 2


def test_small_blocks_give_the_same_rows(write, tmp_path):
    path = write("A.jsonl.gz", [review(f"u{n}", f"i{n % 7}", NOW + n) for n in range(500)])
    raw.convert(path, tmp_path / "one.parquet", REVIEWS)
    assert raw.convert(path, tmp_path / "many.parquet", REVIEWS, block=777) == 500
    assert rows(tmp_path / "one.parquet") == rows(tmp_path / "many.parquet")


def without(field: str) -> dict:
    return {name: value for name, value in review().items() if name != field}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "a", "rating": 5', "not valid JSON: it ends too early, after"),
        ('{"user_id": "a",}', "not valid JSON"),
        (json.dumps(review()) * 2, "not valid JSON: more follows after its end at column"),
        ("[1, 2]", "it holds [1, 2], not an object"),
        ("null", "it holds null, not an object"),
        (without("user_id"), "user_id is missing; each line needs one"),
        (without("timestamp"), "timestamp is missing"),
        (review(user=None), "user_id is null"),
        (review(user=""), 'user_id is "", not a string with text'),
        (review(user=12), "user_id is 12, not a string"),
        (review(item=["x"]), 'parent_asin is ["x"], not a string'),
        (review(user="\ud800"), r'user_id is "\ud800", not a string with text'),
        (review(rating="5.0"), 'rating is "5.0", not a number'),
        (review(rating=True), "rating is true, not a number"),
        (review(rating=float("nan")), "rating is NaN, not a number"),
        (review(rating=float("-inf")), "rating is -Infinity, not a number"),
        (review(timestamp=str(NOW)), f'timestamp is "{NOW}", not an integer'),
        (review(timestamp=float(NOW)), f"timestamp is {NOW}.0, not an integer"),
        (review(timestamp=-1), "timestamp is -1, outside the years 1990 to 2100"),
        (review(timestamp=NOW // 1000), f"timestamp is {NOW // 1000}, outside"),
        (review(timestamp=NOW * 1000), "outside the years 1990 to 2100; it must be ms"),
        (review(timestamp=10**30), "outside the years"),
        (b'{"user_id": "\xff"}', r"not UTF-8: byte b'\xff' at 13; convert the file"),
        (b'{"user_id": "a", "text": "\xe9t\xe9"}', "not UTF-8"),
    ],
)
def test_broken_line_is_named(write, tmp_path, line, message):
    if isinstance(line, dict):
        line = json.dumps(line)
    path = write("A.jsonl.gz", [review()] * 300 + [line] + [review()] * 300)
    with pytest.raises(DataError) as error:
        raw.convert(path, tmp_path / "out.parquet", REVIEWS, block=5000)
    assert f"{path}, line 301" in str(error.value)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == [path]  # neither an out nor a temporary file


@pytest.mark.parametrize("first", ["null", "", "  "])
def test_broken_first_line(write, tmp_path, first):
    """A block that begins with the value null crashed the process inside Arrow."""
    path = write("A.jsonl", [first, "null", review()])
    with pytest.raises(DataError, match=r"line [12]: it holds null, not an object"):
        raw.convert(path, tmp_path / "out.parquet", REVIEWS)


def test_the_first_of_two_broken_lines_is_named(write, tmp_path):
    path = write("A.jsonl", [review(), review(user=None), "{"])
    with pytest.raises(DataError, match="line 2: user_id is null"):
        raw.convert(path, tmp_path / "out.parquet", REVIEWS)


@pytest.mark.parametrize("text", ["{0.__class__}", "%s %d", "{user_id}", "${HOME}", "__import__('os')"])
def test_text_is_never_a_format(write, tmp_path, text):
    path = write("A.jsonl", [review(user=text, item=text)])
    raw.convert(path, tmp_path / "out.parquet", REVIEWS)
    assert rows(tmp_path / "out.parquet")[0][:2] == (text, text)
    path = write("A.jsonl", [review(user=text, rating=text)])
    with pytest.raises(DataError) as error:
        raw.convert(path, tmp_path / "out.parquet", REVIEWS)
    assert json.dumps(text) in str(error.value)


@pytest.mark.parametrize("cut", [2, 20, -9, -8, -4, -1])
def test_truncated_gzip(write, tmp_path, cut):
    path = write("A.jsonl.gz", [review(f"u{n}") for n in range(1000)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"A\.jsonl\.gz cannot be read to its end.*fetch it again"):
        raw.convert(path, tmp_path / "out.parquet", REVIEWS)


def test_damaged_gzip(write, tmp_path):
    path = write("A.jsonl.gz", [review(f"u{n}") for n in range(1000)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read to its end"):
        raw.convert(path, tmp_path / "out.parquet", REVIEWS)


@pytest.mark.parametrize("name", ["A.jsonl", "A.jsonl.gz"])
def test_only_blank_lines(write, tmp_path, name):
    with pytest.raises(DataError, match="holds no event"):
        raw.convert(write(name, ["", " "]), tmp_path / "out.parquet", REVIEWS)


def test_what_was_there_stays(write, tmp_path):
    (tmp_path / "out.parquet").write_text("before")
    with pytest.raises(DataError):
        raw.convert(write("A.jsonl", ["{"]), tmp_path / "out.parquet", REVIEWS)
    assert (tmp_path / "out.parquet").read_text() == "before"


def test_a_rating_may_be_missing(write, tmp_path):
    lines = [without("rating"), review(rating=None), review()]
    for name, some in (("one.jsonl", lines), ("none.jsonl", lines[:2])):
        raw.convert(write(name, some), tmp_path / "out.parquet", REVIEWS)
        assert [row[2] for row in rows(tmp_path / "out.parquet")] == [None, None, 4.0][: len(some)]


def test_items(write, tmp_path):
    lines = [
        {"parent_asin": "a", "title": "First", "price": 3},
        {"parent_asin": "b", "title": None},
        {"parent_asin": "c"},
        {"parent_asin": "d", "title": 1984},
        {"parent_asin": "e", "title": ["x", 1]},
        {"parent_asin": "f", "title": ""},
        {"parent_asin": "a", "title": "Second"},
        {"parent_asin": "g", "title": "\ud800 half"},
        {"parent_asin": "h", "title": None},
        {"parent_asin": "h", "title": " &nbsp; "},
        {"parent_asin": "i", "title": ["Two", "parts"]},
        {"parent_asin": "j", "title": []},
        {"parent_asin": "h", "title": "First line with a title"},
        {"parent_asin": "k", "title": ["x", "\ud800"]},
        {"parent_asin": "h", "title": "Another"},
    ]
    items = write("meta_A.jsonl.gz", [json.dumps(line) for line in lines])
    reviews = write("A.jsonl.gz", [review(), review()])
    manifest = raw.ingest(reviews, items, tmp_path / "raw", {"source": "files"})
    written = pl.read_parquet(tmp_path / "raw/items.parquet")
    assert written.select("parent_asin", "title").rows() == [
        ("a", "First"),
        ("b", None),
        ("c", None),
        ("d", None),
        ("e", None),
        ("f", None),
        ("g", None),
        ("h", "First line with a title"),
        ("i", "Two parts"),
        ("j", None),
        ("k", None),
    ]
    counts = {name: manifest[name] for name in ("reviews", "items", "item_lines_repeated", "titles_missing")}
    assert counts == {"reviews": 2, "items": 11, "item_lines_repeated": 4, "titles_missing": 8}
    assert json.loads((tmp_path / "raw/manifest.json").read_text()) == manifest
    assert manifest["files"]["A.jsonl.gz"]["bytes"] == reviews.stat().st_size


LINES = pl.Schema(
    {
        "parent_asin": pl.String(),
        "title": pl.String(),
        "store": pl.String(),
        "categories": pl.List(pl.String()),
        "main_category": pl.String(),
    }
)
NAMES = st.sampled_from([None, "", " ", "Garden", "Pots"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from([None, "", " ", "&nbsp;", "Tent", "Mat"]),
            NAMES,
            st.none() | st.lists(st.sampled_from([None, "Garden", "Pots"]), max_size=2),
            NAMES,
        )
    )
)
def test_an_item_of_several_lines_has_the_first_of_each_field_that_says_something(lines):
    slow: dict[str, list] = {}
    for item, title, store, categories, main in lines:
        of = slow.setdefault(item, [None, None, None, None])
        names = [name for name in categories or [] if name is not None]
        said = titles.clean(pl.Series([title], dtype=pl.String)).item() != titles.UNTITLED
        for place, value in enumerate([title if said else None, (store or "").strip() and store, names, main]):
            if of[place] is None and value and (place == 2 or value.strip()):
                of[place] = value
    expected = [(item, *of[:2], of[2] or ([of[3]] if of[3] else [])) for item, of in slow.items()]
    assert raw.one_line_each(pl.DataFrame(lines, schema=LINES, orient="row")).rows() == expected


def test_a_store_or_categories_of_another_kind_are_none(write, tmp_path):
    lines = [
        {"store": "S", "categories": ["Home", "Pots"], "main_category": "M"},
        {"store": 7, "categories": "Home", "main_category": "M"},
        {"store": ["S"], "categories": [["Home"]], "main_category": 3},
        {"store": "\ud800", "categories": ["Home", 1]},
        {"store": None, "categories": None, "main_category": None},
        {},
    ]
    items = write("meta_A.jsonl", [json.dumps({"parent_asin": str(n), **line}) for n, line in enumerate(lines)])
    raw.ingest(write("A.jsonl", [review()]), items, tmp_path / "raw", {})
    written = pl.read_parquet(tmp_path / "raw/items.parquet").select("store", "categories").rows()
    assert written == [("S", ["Home", "Pots"]), (None, ["M"]), *[(None, [])] * 4]


@pytest.mark.parametrize("name", ["A.jsonl", "A.jsonl.gz"])
def test_a_byte_order_mark_at_the_start_of_a_file_is_no_part_of_its_first_line(write, tmp_path, name):
    lines = [json.dumps(review("u")), json.dumps(review("v"))]
    path = write(name, [BOM_UTF8 + lines[0].encode(), lines[1]])
    assert raw.convert(path, tmp_path / "out.parquet", REVIEWS) == 2
    assert [row[0] for row in rows(tmp_path / "out.parquet")] == ["u", "v"]
    path = write(name, [lines[0], BOM_UTF8 + lines[1].encode()])
    with pytest.raises(DataError, match=r"line 2 begins with a byte-order mark.*remove these three bytes"):
        raw.convert(path, tmp_path / "out.parquet", REVIEWS)


OLDER = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1391040000}


@pytest.mark.parametrize(("line", "layout"), [(OLDER, REVIEWS), ({"asin": "B1", "title": "x"}, ITEMS)])
def test_an_older_layout_is_named_with_the_command_that_reads_it(write, tmp_path, line, layout):
    command = r"fields of 2014 and 2018.*`llmsrec import <file> --to <folder> --category <name>`"
    with pytest.raises(DataError, match=command):
        raw.convert(write("A.jsonl", [line]), tmp_path / "out.parquet", layout)


def test_item_without_an_id_is_an_error(write, tmp_path):
    with pytest.raises(DataError, match="line 2: parent_asin is missing"):
        raw.convert(write("m", [{"parent_asin": "a"}, {"title": "x"}]), tmp_path / "out.parquet", ITEMS)


def test_find(write, tmp_path):
    plain, packed = write("A.jsonl", [review()]), write("meta_A.jsonl.gz", [{"parent_asin": "a"}])
    assert raw.find(tmp_path, "A") == (plain, packed)


@pytest.mark.parametrize("name", ["Shop.csv", "Shop.json.gz", "Shop.jsonl.zst", "orders.csv", "Shop.parquet"])
def test_a_file_in_another_form_is_named_with_the_command_that_reads_it(write, tmp_path, name):
    path = write(name, ["x"])
    with pytest.raises(DataError) as error:
        raw.find(tmp_path, "Shop")
    assert f"Shop.jsonl[.gz] is not there: {name} in its place" in str(error.value)
    assert f"`llmsrec import {path} --to {tmp_path} --category Shop`" in str(error.value)
    write("Books.jsonl.gz", [review()])
    with pytest.raises(DataError, match="llmsrec import"):
        raw.find(tmp_path, "Shop")


def test_what_is_missing_is_not_among_the_categories_of_the_same_message(write, tmp_path):
    with pytest.raises(DataError, match=r"nothing in this folder can be read"):
        raw.find(tmp_path, "A")
    write("A.jsonl.gz", [review()])
    with pytest.raises(DataError, match=r"meta_A\.jsonl\[\.gz\] is not there: put the catalogue") as error:
        raw.find(tmp_path, "A")
    assert "Categories" not in str(error.value)


def test_find_follows_links(write, tmp_path):
    write("real.gz", [review()])
    (tmp_path / "A.jsonl.gz").symlink_to(tmp_path / "real.gz")
    write("meta_A.jsonl", [{"parent_asin": "a"}])
    assert raw.find(tmp_path, "A")[0] == tmp_path / "A.jsonl.gz"


def test_find_says_what_is_missing(write, tmp_path):
    with pytest.raises(DataError, match=r"data\.dir: .*nowhere is not a folder"):
        raw.find(tmp_path / "nowhere", "A")
    write("Books.jsonl.gz", [review()])
    with pytest.raises(DataError, match=r"Boks\.jsonl\[\.gz\] is not there.*Categories in this folder: Books"):
        raw.find(tmp_path, "Boks")
    with pytest.raises(DataError, match=r"meta_Books\.jsonl\[\.gz\] is not there"):
        raw.find(tmp_path, "Books")
    (tmp_path / "meta_Books.jsonl").touch()
    with pytest.raises(DataError, match=r"meta_Books\.jsonl is empty"):
        raw.find(tmp_path, "Books")
    write("Books.jsonl", [review()])
    with pytest.raises(DataError, match="are both there"):
        raw.find(tmp_path, "Books")
