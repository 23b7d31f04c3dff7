"""A request whose answer a person can judge: a history of which the model knew what came next."""

from pathlib import Path

import polars as pl

from llmsrec.data.titles import UNTITLED

LENGTH = 3  # items: as many as fit a command line


def history(filtered: Path, ranks: Path) -> list[tuple[str, int, str]]:
    """The last events before the test event of the user whom LLM-SRec ranks best, as (parent_asin, ms, title).

    Args:
        filtered: data/filtered.
        ranks: reports/ranks.parquet.

    Returns:
        Oldest first. Only users whose events have titles are looked at; empty where there is none.
    """
    of_test = pl.scan_parquet(ranks).filter(
        pl.col("model") == "llm_srec", pl.col("split") == "test", pl.col("protocol") == "full"
    )
    events = (
        pl.scan_parquet(filtered / "interactions.parquet").group_by("user_id", maintain_order=True).tail(LENGTH + 1)
    )
    items = pl.scan_parquet(filtered / "items.parquet").select("item_id", "parent_asin", "title")
    shown = events.join(items, on="item_id", maintain_order="left").join(
        of_test.select("user_id", "rank"), on="user_id", maintain_order="left"
    )
    users = shown.group_by("user_id").agg(
        pl.col("rank").first(), titled=(pl.col("title") != UNTITLED).all(), events=pl.len()
    )
    best = users.filter(pl.col("titled"), pl.col("events") > LENGTH).sort("rank", "user_id").head(1).select("user_id")
    rows = shown.join(best, on="user_id", how="semi", maintain_order="left").select("parent_asin", "timestamp", "title")
    return rows.collect().rows()[:-1]
