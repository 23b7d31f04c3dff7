"""Amazon Reviews 2023's raw files to parquet with the few fields that the pipeline needs.

A file is read in blocks of whole lines, so memory is bounded by the block and not by the file.
"""

import hashlib
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from llmsrec.data.json_lines import blocks, parse_block
from llmsrec.data.layouts import ITEMS, REVIEWS, Layout
from llmsrec.data.threads import in_order
from llmsrec.data.titles import titled
from llmsrec.errors import DataError
from llmsrec.files import atomic, sha256, write_json

READ = (".jsonl", ".jsonl.gz")
IMPORTED = {".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".inter", ".item", ".zst"}
BLOCK = 1 << 23  # bytes of a block after decompression; from 32 MB on, each allocation costs its page faults again


def find(folder: Path, category: str) -> tuple[Path, Path]:
    """The files of reviews and of items of a category, `.jsonl` or `.jsonl.gz`.

    Raises:
        DataError: the folder or a file is not there, is empty, or is there both plain and compressed.
    """
    if not folder.is_dir():
        raise DataError(f"data.dir: {folder} is not a folder; set it to where {category}.jsonl[.gz] lies.")
    return _one(folder, category), _one(folder, f"meta_{category}")


def ingest(reviews: Path, items: Path, out: Path, origin: dict[str, Any]) -> dict[str, Any]:
    """Write `out`/reviews.parquet (in the order of lines), items.parquet (a row an item) and manifest.json.

    Args:
        origin: where the files come from, for the manifest.

    Returns:
        The manifest.

    Raises:
        DataError: a file that cannot be read; names file, line, value and remedy.
    """
    out.mkdir(parents=True, exist_ok=True)
    digests = {reviews: hashlib.sha256(), items: hashlib.sha256()}
    review_rows = convert(reviews, out / "reviews.parquet", REVIEWS, digest=digests[reviews])
    item_rows = convert(items, out / "items.parquet", ITEMS, digest=digests[items])
    catalogue = one_line_each(pl.read_parquet(out / "items.parquet"))
    with atomic(out / "items.parquet") as temporary:
        catalogue.write_parquet(temporary)
    manifest = {
        **origin,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": digest.hexdigest()} for path, digest in digests.items()
        },
        "reviews": review_rows,
        "items": catalogue.height,
        "item_lines_repeated": item_rows - catalogue.height,
        "titles_missing": int(catalogue["title"].null_count()),
        "outputs": {name: sha256(out / name) for name in ("reviews.parquet", "items.parquet")},
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def one_line_each(lines: pl.DataFrame) -> pl.DataFrame:
    """A row for each item, in the order of their first lines: `parent_asin, title, store, categories`.

    Of each the first that says something counts, or null (no categories: an empty list). An item without categories has
    its main category as the only one.
    """
    names = pl.col("categories").list.drop_nulls()
    said = lines.with_columns(
        title=pl.when(titled(lines["title"])).then("title"),
        store=pl.when(pl.col("store").str.strip_chars() != "").then("store"),
        categories=pl.when(names.list.len() > 0).then(names),
        main_category=pl.when(pl.col("main_category").str.strip_chars() != "").then("main_category"),
    )
    first = said.group_by("parent_asin", maintain_order=True).agg(
        pl.col("title", "store", "categories", "main_category").drop_nulls().first()
    )
    main = pl.concat_list("main_category").list.drop_nulls()
    return first.with_columns(pl.col("categories").fill_null(main)).drop("main_category")


def convert(source: Path, target: Path, layout: Layout, block: int = BLOCK, digest: Any = None) -> int:
    """Stream a raw file into a parquet file, rows in the order of lines; the number of rows is returned.

    One thread decompresses, others parse, one writes.

    Args:
        block: bytes that are parsed at once.
        digest: of hashlib; gets the bytes of the file.
    """
    with (
        atomic(target) as temporary,
        # Nearly every id of a block is another one: a dictionary, or the least and the greatest, would only cost time.
        pq.ParquetWriter(
            temporary, layout.schema, compression="zstd", use_dictionary=False, write_statistics=False
        ) as writer,
        tqdm(desc=source.name, unit=f" {layout.name}s", unit_scale=True, mininterval=1, disable=None) as progress,
    ):

        def store(table: pa.Table) -> int:
            writer.write_table(table)
            progress.update(table.num_rows)
            return int(table.num_rows)

        parsed = in_order(partial(parse_block, layout=layout, path=source), blocks(source, block, digest))
        rows = sum(in_order(store, parsed, threads=1))
        if rows == 0:
            raise DataError(f"{source} holds no {layout.name}; it should have one JSON object a line.")
    return rows


def _one(folder: Path, stem: str) -> Path:
    files = [path for path in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz") if path.exists()]
    if not files:
        raise DataError(f"{folder / stem}.jsonl[.gz] is not there: {_missing(folder, stem)}")
    if len(files) == 2:
        raise DataError(f"{files[0]} and {files[1].name} are both there; remove the one that is not meant.")
    if not files[0].is_file() or files[0].stat().st_size == 0:
        raise DataError(f"{files[0]} is empty or not a file; it should have one JSON object a line.")
    return files[0]


def _missing(folder: Path, stem: str) -> str:
    """What is there instead of a file, and what to do."""
    category, files = stem.removeprefix("meta_"), sorted(path for path in folder.iterdir() if path.is_file())
    read = {path.name.removesuffix(".gz").removesuffix(".jsonl") for path in files if path.name.endswith(READ)}
    others = [path for path in files if not path.name.endswith(READ) and IMPORTED & set(path.suffixes)]
    named = [path for path in others if path.name.startswith(f"{stem}.")]
    categories = sorted(name for name in read if not name.startswith("meta_"))
    command = ""
    if others:
        file, to = (shlex.quote(str(path)) for path in ((named or others)[0], folder))
        command = f"`llmsrec import {file} --to {to} --category {category}`"
    if named or (others and not categories):
        names = ", ".join(path.name for path in (named or others)[:5])
        return f"{names} in its place is not what ingest reads; {command} makes what it reads from such a file."
    if category != stem and category in categories:
        return "put the catalogue of these reviews there, a line an item with its `parent_asin` and `title`."
    if not categories:
        return "nothing in this folder can be read; put it there, or set data.dir to the folder where it lies."
    also = f" {command} would make it." if command else ""
    return f"set data.category, or put it there. Categories in this folder: {', '.join(categories[:10])}.{also}"
