"""Sections that belong together, each a file of its own: the paper's tables and figures, or the questions."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from llmsrec.errors import RequestError, nearest


@dataclass(frozen=True)
class Collection:
    """A package of files with `TITLE`, `runs(seeds)` and `make(results)`.

    Attributes:
        package: its Python name.
        names: of its files, in the order of the page.
        command: the word after `llmsrec`.
        kind: what one of them is called.
        title: the page's.
        folder: where the page is written, in a repository.
    """

    package: str
    names: tuple[str, ...]
    command: str
    kind: str
    title: str
    folder: Path

    def module(self, name: str) -> ModuleType:
        """The file of one of them.

        Raises:
            RequestError: there is none of that name.
        """
        if name not in self.names:
            raise RequestError(
                f"there is no {self.kind} {name!r}{nearest(name, self.names)} These are: {', '.join(self.names)}."
            )
        return importlib.import_module(f"{self.package}.{name}")
