"""The paper's tables and figures: one file each, with `TITLE`, `runs(seeds)` and `make(results)`."""

import difflib
import importlib
from types import ModuleType

from llmsrec.errors import RequestError

NAMES = (
    "table3", "table4", "table6", "table7", "table9", "table11", "table12", "table13", "figure1", "figure3", "figure4",
    "figure5", "figure6", "figure7", "figure8", "similarity",
)  # fmt: skip


def module(name: str) -> ModuleType:
    """The file of a table or figure.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.3)
        raise RequestError(
            f"there is no table or figure {name!r}{f'; did you mean {near[0]!r}?' if near else '.'} These are: "
            f"{', '.join(NAMES)}."
        )
    return importlib.import_module(f"llmsrec.experiments.paper.{name}")
