"""Which items of a catalogue have the categories and stores that a request names."""

from functools import cached_property

import numpy as np
import polars as pl

from llmsrec.errors import RequestError
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.schema import Filter


class Catalogue:
    """A bundle's catalogue by its columns. What a column holds is put in order when it is first asked for."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._count = len(bundle.items)

    def check(self, wanted: Filter, where: str) -> None:
        """Raise RequestError where no item could pass, as the catalogue is from before there was such a column."""
        for name, places in (("category", self._categories), ("store", self._stores)):
            if getattr(wanted, name) is not None and not places:
                raise RequestError(
                    f"{where}, `filter.{name}` is given, but no item of this model's catalogue has one; ask without "
                    "it, or register a model whose data have them."
                )

    def passing(self, wanted: Filter) -> np.ndarray:
        """`[I]` mask of the items that have one of the categories and one of the stores, where these are listed."""
        mask = np.ones(self._count, dtype=bool)
        for values, places in ((wanted.category, self._categories), (wanted.store, self._stores)):
            if values is not None:
                having = np.zeros(self._count, dtype=bool)
                for value in values:
                    having[places.get(value, [])] = True
                mask &= having
        return mask

    @cached_property
    def _categories(self) -> dict[str, np.ndarray]:
        return _places(pl.DataFrame({"value": self._bundle.categories()}).with_row_index("place").explode("value"))

    @cached_property
    def _stores(self) -> dict[str, np.ndarray]:
        return _places(pl.DataFrame({"value": self._bundle.stores()}).with_row_index("place"))


def _places(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """Value -> indices of the items that have it, from rows of `place` and `value`."""
    groups = frame.drop_nulls().group_by("value").agg("place")
    return {value: np.array(places) for value, places in groups.select("value", "place").iter_rows()}
