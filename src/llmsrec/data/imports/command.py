"""The command `llmsrec import`: its arguments, and what it prints."""

import argparse
from pathlib import Path
from typing import Any

FORMATS = ("recbole", "amazon-2023-5core", "amazon-2023", "amazon-2018", "amazon-2014")

NOTES = """\
What is read: CSV and TSV with a header (any of , ; tab | between fields, told by the header), JSON lines, parquet;
plain, gzip or zstd, told by content. Text is UTF-8, or cp1252 if its first byte beyond ASCII begins no character of
UTF-8.
Ids are text: 00123 stays 00123; white space around values is dropped; NULL, null, \\N, NaN, nan and None are empty.
Two exports: name the orders as FILE and the products with --items; --title, --store and --item-category are then
columns of the products, and --item-id is their id, if it is not called as in the orders.
Times: numbers in s, ms, us or ns, or ISO 8601, whichever suits most of the column; all others must be stated.
Formats with known columns (recognised by content, or --format):
  {formats}.
What is in --to under the same --category is replaced if an import wrote it, once the whole import has succeeded.
""".format(formats=", ".join(FORMATS))


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Give the parser what it takes."""
    command.epilog = f"{command.epilog}\n\n{NOTES}"
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="events: orders, ratings, clicks")
    command.add_argument(
        "--to", type=Path, default=Path("data/incoming"), metavar="FOLDER",
        help="what data.dir will be (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--category", metavar="NAME", help="what data.category will be; must be stated")
    columns = command.add_argument_group("columns", "of the events; '' leaves out one that a known format has")
    columns.add_argument("--user", metavar="COLUMN")
    columns.add_argument("--item", metavar="COLUMN")
    columns.add_argument("--time", metavar="COLUMN")
    columns.add_argument("--title", metavar="COLUMN", help="of the item; what the language model reads")
    columns.add_argument("--rating", metavar="COLUMN", help="0 to 5, not used by the pipeline")
    columns.add_argument("--item-category", metavar="COLUMN", dest="item_category")
    columns.add_argument("--store", metavar="COLUMN")
    items = command.add_argument_group("a catalogue of its own")
    items.add_argument("--items", type=Path, metavar="FILE", help="products, a line each")
    items.add_argument("--item-id", metavar="COLUMN", dest="item_id", help="its ids (default: called as in the events)")
    when = command.add_argument_group("times")
    either = when.add_mutually_exclusive_group()
    either.add_argument("--time-unit", choices=("s", "ms", "us", "ns"), help="of numbers since 1970")
    either.add_argument("--time-format", metavar="FORMAT", help="such as '%%d.%%m.%%Y %%H:%%M'")
    when.add_argument(
        "--time-zone", default="UTC", metavar="ZONE", help="of times that state none (default: %(default)s)"
    )
    written = command.add_argument_group("files")
    written.add_argument("--format", choices=FORMATS, help="known columns")
    written.add_argument("--delimiter", metavar="CHARACTER", help="between fields; `tab` for a tab")
    written.add_argument("--quote", default='"', metavar="CHARACTER", help="around fields; `none` if quotes are text")
    written.add_argument("--encoding", metavar="NAME", help="such as cp1252 or utf-16")
    command.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be read, and count them")


def run(options: argparse.Namespace) -> None:
    """Import, and print what was taken."""
    from llmsrec.data.imports.importing import run as import_files
    from llmsrec.data.imports.request import Request, unnamed
    from llmsrec.data.imports.sources import Writing

    roles = ("user", "item", "time", "title", "rating", "store")
    stated = {role: getattr(options, role) for role in roles} | {"category": options.item_category}
    request = Request(
        files=options.files,
        to=options.to,
        category=options.category or "",
        items=options.items,
        format=options.format,
        columns={role: column for role, column in stated.items() if column is not None},
        item_id=options.item_id,
        writing=Writing(
            "\t" if options.delimiter in ("tab", "\\t") else options.delimiter,
            None if options.quote == "none" else options.quote,
            options.encoding,
        ),
        unit=options.time_unit,
        form=options.time_format,
        zone=options.time_zone,
        skip_bad=options.skip_bad,
    )
    if not request.category:
        raise unnamed(request)
    print("\n".join(lines(import_files(request), options.to)))


def lines(manifest: dict[str, Any], to: Path) -> list[str]:
    """What an import did, for people."""
    said = []
    for source in manifest["sources"]:
        taken = ", ".join(f"{role} = {column}" for role, column in source["columns"].items())
        said.append(f"{source['file']} ({source['format']}; {source['written']}): {taken}")
    count, items, when = manifest["rows"], manifest["items"], manifest["times"]
    said.append(f"times: {when['rule']}; from {when['first']} to {when['last']}")
    said.append(f"rows: {count['in']:,} read, {count['out']:,} written, {count['refused']:,} left out")
    for part in (count, items):
        said += [f"  left out: {e['file']}, line {e['line']}: {e['reason']}" for e in part["first_refused"]]
    if items["refused"]:
        said.append(f"catalogue: {items['refused']:,} rows left out")
    said.append(f"items: {items['bought']:,} in the events, {items['bought_with_title']:,} of them with a title")
    if items["bought_with_title"] == 0:
        said.append(
            "WARNING: no item has a title, and the language model knows items by their titles: name the column with "
            "--title, or the catalogue with --items FILE --title COLUMN"
        )
    category = manifest["category"]
    done = "replaced" if manifest["replaced"] else "written"
    said.append(f"{done}: {to}/{category}.jsonl.gz, meta_{category}.jsonl.gz, {category}.manifest.json")
    said.append(f"next: {_next(to, category)}")
    return said


def _next(to: Path, category: str) -> str:
    """What trains on the import: nothing is overridden where params.yaml names these files already."""
    from llmsrec.errors import ParamsError
    from llmsrec.params import load

    try:
        data = load(Path("params.yaml")).data
    except ParamsError:  # elsewhere than in the repository; what is wrong with the file is the stages' to say
        data = None
    if data and (data.source, Path(data.dir), data.category) == ("files", to, category):
        return "dvc repro"
    return (
        f"dvc exp run -S data.source=files -S data.dir={to} -S data.category={category} "
        "-S registry.model=<a name for its versions>"
    )
