"""The code that each stage of dvc.yaml runs, from its imports: `python -m stages.deps` writes it there.

A stage that runs changed code runs again, and one that does not stays cached.
"""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from llmsrec.closure import PACKAGE, imports, reached
from llmsrec.files import atomic
from llmsrec.models.cf import teacher

PIPELINES = tuple(map(Path, ("dvc.yaml", "alone/dvc.yaml", "tuning/dvc.yaml", "stages/items/dvc.yaml")))
# How threads wait, reading settings, naming errors, hiding secrets and whole files decide nothing about a result.
PLUMBING = {
    PACKAGE / f"{name}.py" for name in ("__init__", "closure", "errors", "files", "params", "redaction", "yaml_file")
}
LOADER = PACKAGE / "models/cf/teacher.py"  # imports a system by its name
TEACHERS = {PACKAGE / f"models/cf/{system}.py" for system in teacher.CLASSES}
ONLY_NAMED = TEACHERS - frozenset().union(*map(imports, TEACHERS))  # not what another one is made of
STAGE = re.compile(r"^  \w+:\n(?:    .*\n)+", re.M)
SCRIPT = re.compile(r"cmd: python -m stages\.(\w+)")
CODE = re.compile(r"(?:^( +- )src/llmsrec/.*\n)+", re.M)


def main() -> None:
    for path in PIPELINES:
        with atomic(path) as temporary:
            temporary.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


def written(pipeline: str) -> str:
    """The text of a dvc.yaml with the code of each of its stages as it is now.

    Which teachers a stage loads no import tells: their lines are written by hand, and stay.
    """

    def of(stage: re.Match[str]) -> str:
        by_hand = re.findall(rf"- (src/llmsrec/models/cf/(?:{'|'.join(teacher.CLASSES)}|\$.*)\.py)\n", stage[0])
        script = SCRIPT.findall(stage[0])[0]
        lines = sorted({*by_hand, *code([Path(f"stages/{script}.py").absolute()])})
        return CODE.sub(lambda block: "".join(f"{block[1]}{line}\n" for line in lines), stage[0], count=1)

    return STAGE.sub(of, pipeline)


def code(starts: Iterable[Path]) -> set[str]:
    """The modules that results of these depend on, from the repository's root.

    With what teachers import, but without the teachers themselves, unless another one is made of them.
    """
    modules = reached(starts, PLUMBING)
    if LOADER in modules:
        modules = reached({*starts, *TEACHERS}, PLUMBING) - ONLY_NAMED
    return {
        f"src/{path.relative_to(PACKAGE.parent)}"
        for path in modules
        if path.is_relative_to(PACKAGE) and not _is_empty(path)
    }


def _is_empty(path: Path) -> bool:
    """Whether it is a package's file with nothing but its docstring."""
    return path.name == "__init__.py" and len(ast.parse(path.read_text(encoding="utf-8")).body) == 1


if __name__ == "__main__":
    main()
