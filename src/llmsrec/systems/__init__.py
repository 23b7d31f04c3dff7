"""The systems that LLM-SRec is compared with: what each is trained by and ranked with.

A system is a file here with `SETTINGS` (system -> the type of systems/<system>.yaml), `train(task)`, which returns the
curve, and `rank(task)`, which returns a `task.Ranked`; what both are given is a `task.Task`. SASRec and LLM-SRec belong
to the main way.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from llmsrec import yaml_file
from llmsrec.errors import ParamsError, RequestError, in_words, nearest

FORMS = ("retrieval", "titles")
# system -> form -> the file here that has it
MODULES = {
    "gru4rec": {"retrieval": "cf"},
    "bert4rec": {"retrieval": "cf"},
    "nextitnet": {"retrieval": "cf"},
    "ctrl": {"retrieval": "ctrl"},
    "recformer": {"retrieval": "recformer"},
    "tallrec": {"retrieval": "llm", "titles": "titles"},
    "llara": {"retrieval": "llm", "titles": "titles"},
    "collm": {"retrieval": "llm", "titles": "titles"},
    "a_llmrec": {"retrieval": "llm", "titles": "titles"},
}
CF = ("gru4rec", "bert4rec", "nextitnet")  # trained alike; with CTRL those that may teach LLM-SRec beside SASRec


def names() -> list[str]:
    """`<system>-<form>` of all, such as `gru4rec-retrieval`."""
    return [f"{system}-{form}" for form in FORMS for system, forms in MODULES.items() if form in forms]


def parse(name: str) -> tuple[str, str]:
    """`tallrec-titles` -> its system and form.

    Raises:
        RequestError: there is no such system, or it has no such form.
    """
    system, _, form = name.partition("-")
    if form in MODULES.get(system, {}):
        return system, form
    if system in MODULES and form in FORMS:
        raise RequestError(f"{system} has no form {form!r}; it has {' and '.join(MODULES[system])}.")
    raise RequestError(f"there is no system {name!r}{nearest(name, names())} These are: {', '.join(names())}.")


def module(system: str, form: str) -> ModuleType:
    """The file that has a system's `SETTINGS`, `train` and `rank`."""
    return importlib.import_module(f"llmsrec.systems.{MODULES[system][form]}")


def folder(system: str, form: str) -> Path:
    """Where a trained system lies: `models/<system>`, or `models/<system>-<form>` of one that has two."""
    return Path("models") / (system if len(MODULES[system]) == 1 else f"{system}-{form}")


def settings(system: str, form: str, file: Path) -> Any:
    """systems/<system>.yaml, typed.

    Raises:
        ParamsError: it is not there, is no YAML, or has a key or value that the system does not know.
    """
    values = yaml_file.read(file)
    try:
        return module(system, form).SETTINGS[system].model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "its content"
        raise ParamsError(
            f"{file}, {key}: {in_words(first)}; the comments there say what each value may be."
        ) from error
