"""Whole imports: equal to a plain loop, readable by ingest, and nothing changed where one fails."""

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from llmsrec.data import raw, sample
from llmsrec.data.imports import importing, text
from llmsrec.data.imports.importing import run
from llmsrec.data.imports.request import Request
from llmsrec.data.imports.sources import Writing
from llmsrec.errors import DataError, RequestError
from llmsrec.files import read_json
from llmsrec.params import Sample

COLUMNS = {"user": "Kunde", "item": "Artikel", "time": "Bestellt am", "title": "Bezeichnung"}
HEADER = "Kunde;Artikel;Bestellt am;Bezeichnung;Note\n"
ROWS = (
    '00123;A/1 ü;2024-12-24 18:30;"Schuh; ""rot""\nGröße 38";5\n'
    "123;B;2024-12-25;;\n"
    "00123;B;2024-12-24T18:30:00+01:00;Hut;4.5\n"
)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    path = tmp_path / "orders.csv"
    path.write_text(HEADER + ROWS, encoding="utf-8")
    return path


def request(*files: Path, **changes: Any) -> Request:
    """An import of these files into a folder beside them."""
    return Request(**{"files": files, "to": files[0].parent / "in", "category": "Shop", "columns": COLUMNS, **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def written(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return lines(folder / "Shop.jsonl.gz"), lines(folder / "meta_Shop.jsonl.gz")


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


EVENTS = [
    {"user_id": "00123", "parent_asin": "A/1 ü", "timestamp": ms(2024, 12, 24, 18, 30)},
    {"user_id": "123", "parent_asin": "B", "timestamp": ms(2024, 12, 25)},
    {"user_id": "00123", "parent_asin": "B", "timestamp": ms(2024, 12, 24, 17, 30)},
]
ITEMS = [{"parent_asin": "A/1 ü", "title": 'Schuh; "rot"\nGröße 38'}, {"parent_asin": "B", "title": "Hut"}]


def test_an_export_of_orders(orders):
    manifest = run(request(orders))
    assert written(orders.parent / "in") == (EVENTS, ITEMS)
    assert manifest["rows"] == {"in": 3, "out": 3, "refused": 0, "first_refused": []}
    assert (manifest["items"]["bought"], manifest["items"]["bought_with_title"]) == (2, 2)
    assert (manifest["times"]["first"], manifest["times"]["last"]) == ("2024-12-24", "2024-12-25")
    (source,) = manifest["sources"]
    assert (source["file"], source["columns"]) == ("orders.csv", COLUMNS)
    stored = read_json(orders.parent / "in/Shop.manifest.json")
    assert stored == {name: value for name, value in manifest.items() if name != "replaced"}
    assert sorted(path.name for path in (orders.parent / "in").iterdir()) == [
        "Shop.jsonl.gz", "Shop.manifest.json", "meta_Shop.jsonl.gz"
    ]  # fmt: skip


def as_gzip(path: Path, rows: list[list[str]]) -> None:
    path.write_bytes(gzip.compress("".join("\t".join(row) + "\r\n" for row in rows).encode("cp1252")))


def as_json(path: Path, rows: list[list[str]]) -> None:
    records = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def as_parquet(path: Path, rows: list[list[str]]) -> None:
    pl.DataFrame(rows[1:], schema=rows[0], orient="row").write_parquet(path)


@pytest.mark.parametrize("write", [as_gzip, as_json, as_parquet])
def test_every_kind_of_file_gives_the_same(orders, write):
    with orders.open(encoding="utf-8", newline="") as file:
        rows = [[field.replace("\n", " ") for field in row] for row in csv.reader(file, delimiter=";")]
    path = orders.parent / "other"
    write(path, rows)
    run(request(path, writing=Writing(quote=None)))
    items = [{**item, "title": item["title"].replace("\n", " ")} for item in ITEMS]
    assert written(orders.parent / "in") == (EVENTS, items)


def test_several_files_are_read_one_after_the_other(orders):
    later = orders.parent / "later.csv"
    later.write_text("Bezeichnung,Artikel,Kunde,Bestellt am\nMantel,B,9,2025-01-01\nSchal,C,9,2025-01-02\n")
    manifest = run(request(orders, later))
    events, items = written(orders.parent / "in")
    assert [event["user_id"] for event in events] == ["00123", "123", "00123", "9", "9"]
    assert items == [*ITEMS, {"parent_asin": "C", "title": "Schal"}]  # the first title of B counts
    assert [source["file"] for source in manifest["sources"]] == ["orders.csv", "later.csv"]


def test_a_shop_with_orders_and_products(orders):
    products = orders.parent / "products.csv"
    products.write_text("SKU,Name,Gruppe,Marke\nB,Hut,Mode,Meier\nX,Nie gekauft,Mode,\nB,Zweiter,,\n,ohne,,\n")
    columns = {"user": "Kunde", "item": "Artikel", "time": "Bestellt am"}
    catalogue = {"title": "Name", "category": "Gruppe", "store": "Marke"}
    asked = request(orders, items=products, item_id="SKU", columns={**columns, **catalogue}, skip_bad=True)
    manifest = run(asked)
    events, items = written(orders.parent / "in")
    assert events == EVENTS
    assert items == [
        {"parent_asin": "B", "title": "Hut", "store": "Meier", "categories": ["Mode"]},
        {"parent_asin": "X", "title": "Nie gekauft", "store": None, "categories": ["Mode"]},
    ]
    assert manifest["rows"]["refused"] == 0
    assert manifest["items"] == {
        "bought": 2, "bought_with_title": 1, "in_catalogue": 2, "refused": 1,
        "first_refused": [{"file": "products.csv", "line": 5, "reason": "the item (column SKU) is empty"}],
    }  # fmt: skip
    with pytest.raises(RequestError, match=r"--item-id \(else as in the events: --item\) Artikel: .* no such column"):
        run(request(orders, items=products, columns={**columns, **catalogue}))


def plain(path: Path, form: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The slow twin: Python's csv and datetime, row by row."""
    events, titles = [], {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter=";"):
            moment = datetime.strptime(row["Bestellt am"], form).replace(tzinfo=UTC)
            events.append(
                {"user_id": row["Kunde"], "parent_asin": row["Artikel"], "timestamp": int(moment.timestamp() * 1000)}
            )
            titles.setdefault(row["Artikel"], row["Bezeichnung"])
    return events, titles


@pytest.mark.parametrize("chunk", [300, 1 << 22])
def test_an_import_is_what_a_plain_loop_makes(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(text, "CHUNK", chunk)
    monkeypatch.setattr(importing, "BATCH", 50)
    titles = ["Schuh", 'Schuh; "rot"', "zwei\nZeilen", "Größe 38", "a;b\r\nc"]
    path = tmp_path / "orders.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Kunde", "Artikel", "Bestellt am", "Bezeichnung"])
        for n in range(400):
            when = f"{n % 28 + 1:02}.{n % 12 + 1:02}.2024 {n % 24:02}:{n % 60:02}"
            writer.writerow([f"{n % 17:05}", f"i/{n % 23}", when, titles[n % 23 % 5]])
    form = "%d.%m.%Y %H:%M"
    run(request(path, form=form))
    events, items = written(tmp_path / "in")
    assert (events, {item["parent_asin"]: item["title"] for item in items}) == plain(path, form)


def test_the_sample_comes_back_from_a_csv(tmp_path):
    """Sample -> CSV -> import -> ingest: the interactions, titles, stores and kinds of the sample itself."""
    source = read_json(Path(__file__).parents[3] / "stages/sources/sample.json")
    sample.generate(source, Sample(users=200, items=150, seed=3), tmp_path)
    raw.ingest(*raw.find(tmp_path, "Sample"), tmp_path / "direct", {})
    reviews = pl.read_parquet(tmp_path / "direct/reviews.parquet")
    items = pl.read_parquet(tmp_path / "direct/items.parquet")
    shop = reviews.select(
        Kunde="user_id", Artikel="parent_asin", Note="rating", Zeit=pl.col("timestamp").cast(pl.Datetime("ms"))
    )
    shop.write_csv(tmp_path / "orders.csv", datetime_format="%Y-%m-%dT%H:%M:%S%.3f", separator="\t")
    items = items.with_columns(pl.col("categories").list.slice(-1))  # a column of a CSV holds one
    items.with_columns(pl.col("categories").list.first()).write_csv(tmp_path / "products.csv")
    columns = {"user": "Kunde", "item": "Artikel", "time": "Zeit", "rating": "Note", "title": "title"}
    columns |= {"category": "categories", "store": "store"}
    run(request(tmp_path / "orders.csv", items=tmp_path / "products.csv", item_id="parent_asin", columns=columns))
    raw.ingest(*raw.find(tmp_path / "in", "Shop"), tmp_path / "back", {})
    assert pl.read_parquet(tmp_path / "back/reviews.parquet").equals(reviews)
    back = pl.read_parquet(tmp_path / "back/items.parquet")
    stripped = pl.col("title").str.strip_chars()  # an import drops white space around values
    assert back.equals(items.with_columns(pl.when(stripped != "").then(stripped).alias("title")))


def test_events_without_ratings_are_ingested(orders):
    run(request(orders))
    raw.ingest(*raw.find(orders.parent / "in", "Shop"), orders.parent / "raw", {})
    rows = pl.read_parquet(orders.parent / "raw/reviews.parquet")
    assert rows.to_dicts() == [{**event, "rating": None} for event in EVENTS]


AMAZON = {"reviewerID": "A1", "asin": "B0", "overall": 5.0, "unixReviewTime": 1391040000}
KNOWN = {
    "recbole": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nA1\tB0\t5\t1391040000.0\n",
        'item_id:token\tmovie_title:token_seq\tclass:token_seq\nB0\tThe "27 inch\tx\n',
    ),
    "amazon-2023-5core": (
        "user_id,parent_asin,rating,timestamp,history\nA1,B0,5.0,1391040000000,X Y\n",
        '{"parent_asin": "B0", "title": "The \\"27 inch"}\n',
    ),
    "amazon-2018": (
        json.dumps({**AMAZON, "verified": True}) + "\n",
        '{"asin": "B0", "title": "The \\"27 inch", "brand": null, "category": []}\n',
    ),
    "amazon-2014": (json.dumps(AMAZON) + "\n", "{'asin': 'B0', 'title': 'The \"27 inch', 'categories': [['x']]}\n"),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", KNOWN)
def test_known_formats_need_no_columns(tmp_path, name, named):
    events, items = tmp_path / "events", tmp_path / "items"
    for path, content in zip((events, items), KNOWN[name], strict=True):
        path.write_text(content)
    manifest = run(request(events, items=items, columns={}, format=name if named else None))
    assert {source["format"] for source in manifest["sources"]} == {name}
    assert written(tmp_path / "in")[0] == [
        {"user_id": "A1", "parent_asin": "B0", "rating": 5.0, "timestamp": 1_391_040_000_000}
    ]
    (item,) = written(tmp_path / "in")[1]
    assert (item["parent_asin"], item["title"]) == ("B0", 'The "27 inch')


def test_a_column_of_a_known_format_can_be_another_or_none(tmp_path):
    path = tmp_path / "events"
    path.write_text("user_id,parent_asin,rating,timestamp,name\nA1,B0,9,1391040000000,Hut\n")
    run(request(path, columns={"rating": "", "title": "name"}))
    assert "rating" not in written(tmp_path / "in")[0][0]
    assert written(tmp_path / "in")[1] == [{"parent_asin": "B0", "title": "Hut"}]


GOOD = "00123;B;2024-12-25;Hut;5\n"


@pytest.mark.parametrize(
    ("rows", "message", "left"),
    [
        ("7;;2024-12-25;Hut;5\n", "the item (column Artikel) is empty; fill in user, item, time of each row", 2),
        (" ;B;2024-12-25;Hut;5\n", "the user (column Kunde) is empty", 2),
        ("NULL;B;2024-12-25;Hut;5\n", "the user (column Kunde) is empty", 2),
        ("7;B;;Hut;5\n", "the time (column Bestellt am) is empty", 2),
        ("7;B;24.12.2024;Hut;5\n", 'time is "24.12.2024", not ISO 8601', 2),
        ("7;B;1391040000;Hut;5\n", "suits seconds where the column has ISO 8601", 2),
        ("7;B;1969-12-25;Hut;5\n", "as ISO 8601 outside the years 1990 to 2100", 2),
        ("7;B;2024-12-25;Hut;good\n", 'the rating is "good", not a number from 0 to 5; leave ratings away', 2),
        ("7;B;2024-12-25;Hut;9\n", 'the rating is "9"', 2),
        ("7;B;2024-12-25;Hut\n", "it has 4 fields, the header 5", 2),
    ],
)
def test_a_bad_row_is_named_or_counted(tmp_path, rows, message, left):
    path = tmp_path / "orders.csv"
    path.write_text(HEADER + GOOD + rows + GOOD, encoding="utf-8")
    asked = {"columns": {**COLUMNS, "rating": "Note"}}
    with pytest.raises(DataError) as error:
        run(request(path, **asked))
    assert f"{path}, line 3: " in str(error.value)
    assert message in str(error.value)
    assert "--skip-bad" in str(error.value)
    manifest = run(request(path, **asked, skip_bad=True))
    assert manifest["rows"]["out"] == left == len(written(tmp_path / "in")[0])
    assert (manifest["rows"]["in"], manifest["rows"]["refused"]) == (3, 1)
    (example,) = manifest["rows"]["first_refused"]
    assert (example["file"], example["line"]) == ("orders.csv", 3)


@pytest.mark.parametrize("day", ["24.12.2024", "", "1969-12-25"])
def test_an_item_whose_every_row_is_left_out_is_no_item_of_the_export(tmp_path, day):
    path = tmp_path / "orders.csv"
    path.write_text(HEADER + GOOD + f"7;C;{day};Schal;5\n7;B;{day};Mütze;5\n" + GOOD, encoding="utf-8")
    manifest = run(request(path, skip_bad=True))
    assert (manifest["rows"]["refused"], manifest["items"]["bought"], manifest["items"]["in_catalogue"]) == (2, 1, 1)
    assert written(tmp_path / "in")[1] == [{"parent_asin": "B", "title": "Hut"}]


def test_ten_digits_among_thirteen_are_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("u,i,t\na,b,1391040000000\na,c,1391040000\na,d,1391040000001\n")
    columns = {"user": "u", "item": "i", "time": "t"}
    with pytest.raises(DataError, match=r"line 3: time is .* suits seconds where the column has milliseconds; mend it"):
        run(request(path, columns=columns))
    with pytest.raises(DataError, match=r"line 2: time is .* suits milliseconds where the column has seconds"):
        run(request(path, columns=columns, unit="s"))


def test_local_times_have_the_zone_that_is_stated(orders):
    run(request(orders, zone="Europe/Berlin"))
    assert [event["timestamp"] for event in written(orders.parent / "in")[0]] == [
        ms(2024, 12, 24, 17, 30), ms(2024, 12, 24, 23), ms(2024, 12, 24, 17, 30)
    ]  # fmt: skip


def test_what_was_there_stays_unless_all_of_it_succeeds(orders):
    folder = orders.parent / "in"
    assert run(request(orders))["replaced"] is False
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    good = orders.read_text(encoding="utf-8")
    for bad in ("1;2\n", "1;2;soon;x;\n", '1;2;3;"x;\n'):
        orders.write_text(good + bad, encoding="utf-8")
        with pytest.raises(DataError):
            run(request(orders))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    orders.write_text(good, encoding="utf-8")
    assert run(request(orders))["replaced"] is True
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # equal files from equal sources
    run(request(orders, category="Other"))
    assert len(list(folder.iterdir())) == 6


def test_a_file_that_no_import_wrote_is_never_replaced(orders):
    folder = orders.parent / "in"
    folder.mkdir()
    for name in ("Shop.jsonl.gz", "Shop.jsonl", "meta_Shop.jsonl", "meta_Shop.jsonl.gz"):
        (folder / name).write_text("mine")
        with pytest.raises(RequestError, match=r"no import wrote it.*move it away"):
            run(request(orders))
        assert [path.name for path in folder.iterdir()] == [name]
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"columns": {**COLUMNS, "item": "Artikl"}},
            r"--item Artikl: .*orders\.csv has no such column \(the nearest is Artikel\); its columns are Kunde, "
            r'Artikel, "Bestellt am", Bezeichnung, Note\.',
        ),
        (
            {"columns": {}},
            r"state with --user, --item, --time .* Perhaps: llmsrec import .*orders\.csv --user Kunde --item Artikel "
            r"--time 'Bestellt am' --title Bezeichnung --to .*/in --category Shop$",
        ),
        ({"columns": {"user": "Kunde"}}, "state with --item, --time which column is the item and the time"),
        ({"columns": {**COLUMNS, "user": ""}}, "--user '' names no column"),
        ({"item_id": "SKU"}, "give that file with --items"),
        ({"category": "../x"}, "must be letters, digits"),
        ({"category": "Büro"}, "must be at most 100 ASCII characters"),
        ({"category": "meta_x"}, "not begin with meta_"),
        ({"zone": "Berlin"}, "--time-zone 'Berlin' is unknown"),
        ({"to": Path(__file__)}, "is a file; name a folder"),
        ({"to": Path(__file__) / "below"}, "is a file; name a folder"),
        *(({"form": form}, "--time-format .* tells no day") for form in ("", "%", "%Q", "x%Y", "%d.%m.%Y %H", "%H:%M")),
    ],
)
def test_a_request_that_cannot_be_met_says_how_it_could(orders, changes, message):
    with pytest.raises(RequestError, match=message):
        run(request(orders, **changes))
    assert not (orders.parent / "in").exists()


def test_a_column_that_is_there_twice_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("u,i,t,u\na,b,2024-12-24,c\n")
    with pytest.raises(RequestError, match=r"--user u: .* has 2 columns of this name; rename all but"):
        run(request(path, columns={"user": "u", "item": "i", "time": "t"}))


@pytest.mark.parametrize("delimiter", [";;", "ü", "\n", ""])
def test_a_delimiter_is_one_character(delimiter):
    with pytest.raises(RequestError, match="is not one character of ASCII"):
        Writing(delimiter=delimiter)


def test_files_without_rows_are_an_error(tmp_path):
    path = tmp_path / "orders.csv"
    for rows in ("\n\n", ""):
        path.write_text(HEADER.strip() + rows)
        with pytest.raises(DataError, match="has a header and no row"):
            run(request(path))
    path.write_text(HEADER + ";;;;\n")
    with pytest.raises(DataError, match=r"none of 1 rows can be read; the first: orders\.csv, line 2: the user"):
        run(request(path, skip_bad=True))


def test_titles_of_later_files_and_rows_fill_what_is_empty(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {
        "u": ["a"] * 4,
        "i": ["x", "x", "y", "x"],
        "t": [1391040000] * 4,
        "n": [None, " First ", "NULL", "Second"],
    }
    pq.write_table(pl.DataFrame(columns).to_arrow(), path)
    run(request(path, columns={"user": "u", "item": "i", "time": "t", "title": "n"}))
    assert written(tmp_path / "in")[1] == [
        {"parent_asin": "x", "title": "First"}, {"parent_asin": "y", "title": None}
    ]  # fmt: skip


BAD = {  # line -> a row that cannot be read, each in a way of its own
    2: "u;i;yesterday;;5",
    3: "u;i;2024-01-01;;9",
    4: ";i;2024-01-01;;5",
    5: "u;i;2024-01-01",
    6: "u;i;2024-13-01;;5",
    7: "u;i;2024-01-01;;x",
}


def test_rows_that_cannot_be_read_are_named_in_the_order_of_lines(tmp_path: Path) -> None:
    path, later = tmp_path / "z.csv", tmp_path / "a.csv"
    fine = "u;i;2024-01-01;;5\n" * 9
    path.write_text(HEADER + "".join(f"{row}\n" for row in BAD.values()) + fine)
    later.write_text(HEADER + ";i;2024-01-01;;5\n" + fine)
    columns = {**COLUMNS, "rating": "Note"}
    manifest = run(request(path, later, columns=columns, skip_bad=True))
    named = [(each["file"], each["line"]) for each in manifest["rows"]["first_refused"]]
    assert named == [("z.csv", line) for line in (2, 3, 4, 5, 6)] and manifest["rows"]["refused"] == len(BAD) + 1
    for first in (3, 4, 5):  # of one block, whatever is looked at first
        path.write_text(HEADER + "".join(f"{BAD[line]}\n" for line in (first, *BAD) if line > 2) + fine)
        with pytest.raises(DataError, match=r"z\.csv, line 2: "):
            run(request(path, columns=columns))
