"""The items of an export: one line each, in the order in which they first come."""

import polars as pl

MERGED_AT = 1 << 20  # rows that are put together at once


class Catalogue:
    """Items gathered block by block: memory grows with the items, not with the rows."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []
        self._rows = 0
        self._limit = MERGED_AT

    def add(self, rows: pl.DataFrame) -> None:
        """Rows with `item` and any of title, category and store; of several, the first that is not null counts."""
        self._parts.append(_merged(rows))
        self._rows += self._parts[-1].height
        if self._rows > self._limit:
            merged = self.frame()
            self._rows, self._limit = merged.height, merged.height + MERGED_AT

    def frame(self) -> pl.DataFrame:
        """All items so far."""
        self._parts = [_merged(pl.concat(self._parts))]
        return self._parts[0]


def _merged(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("item", maintain_order=True).agg(pl.exclude("item").drop_nulls().first())
