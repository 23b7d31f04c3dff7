"""The paper's tables and figures: one file each, with `TITLE`, `runs(seeds)` and `make(results)`."""

import importlib
from types import ModuleType

from llmsrec.errors import RequestError, nearest

NAMES = (
    "table3", "table4", "table6", "table7", "table8", "table9", "table11", "table12", "table13", "figure1", "figure3",
    "figure4", "figure5", "figure6", "figure7", "figure8", "similarity",
)  # fmt: skip


def module(name: str) -> ModuleType:
    """The file of a table or figure.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in NAMES:
        raise RequestError(f"there is no table or figure {name!r}{nearest(name, NAMES)} These are: {', '.join(NAMES)}.")
    return importlib.import_module(f"llmsrec.experiments.paper.{name}")
