"""Items as the pipeline keeps them: title, store and categories as plain text."""

from pathlib import Path

import polars as pl

from llmsrec.data.titles import clean, plain


def catalogue_of(kept: pl.DataFrame, items: Path) -> pl.DataFrame:
    """`item_id, parent_asin, title, store, categories` of items.

    Args:
        kept: their `id` and `raw_id`.
        items: the raw catalogue.
    """
    named = kept.lazy().rename({"id": "item_id", "raw_id": "parent_asin"})
    # the catalogue holds more items than are kept, and a join in memory would hold it whole
    known = pl.scan_parquet(items).join(named.select("parent_asin"), on="parent_asin", how="semi")
    known = known.collect(engine="streaming").lazy()
    catalogue = named.join(known, on="parent_asin", how="left", maintain_order="left").collect()
    del known  # it is in the catalogue, too
    return tidy(catalogue)


def tidy(catalogue: pl.DataFrame) -> pl.DataFrame:
    """`title`, `store` and `categories` as plain text; no store is null, no categories an empty list."""
    names = catalogue.select("item_id", pl.col("categories")).explode("categories")
    names = names.with_columns(plain(names["categories"]).alias("categories")).drop_nulls()
    categories = names.group_by("item_id", maintain_order=True).agg("categories")
    return (
        catalogue.drop("categories")
        .with_columns(clean(catalogue["title"]).alias("title"), plain(catalogue["store"]).alias("store"))
        .join(categories, on="item_id", how="left", maintain_order="left")
        .with_columns(pl.col("categories").fill_null(pl.lit([], pl.List(pl.String))))
    )
