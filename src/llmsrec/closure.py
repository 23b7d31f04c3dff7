"""Which modules of this package a module needs: what a stage's results depend on, and what a bundle carries."""

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
NAMED = re.compile(r'"(\w+/\w+\.py)"')  # MLflow runs a model's code by its file's name


@cache
def imports(path: Path) -> frozenset[Path]:
    """The modules that a file imports, wherever in the file it does so, and those that it names as files."""
    text = path.read_text(encoding="utf-8")
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE.name}
    bases = [PACKAGE.parent / name.replace(".", "/") for name in names]
    modules = {*(base.with_suffix(".py") for base in bases), *(base / "__init__.py" for base in bases)}
    return frozenset(path for path in modules | {PACKAGE / name for name in NAMED.findall(text)} if path.exists())


def reached(starts: Iterable[Path], beyond: Iterable[Path] = ()) -> set[Path]:
    """`starts` and all that they import, directly or through others.

    Args:
        beyond: modules that are left out, with what only they import.
    """
    left_out, seen = set(beyond), set()
    todo = list(starts)
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += imports(current) - left_out
    return seen
