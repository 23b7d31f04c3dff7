"""YAML files that people write: params.yaml and systems/*.yaml."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from llmsrec.errors import ParamsError

MOST_CHARACTERS, MOST_VALUES, DEEPEST = 100_000, 10_000, 20  # of a file; params.yaml has 200 values, 4 deep


def read(path: Path) -> Any:
    """What a file holds, as plain values.

    Raises:
        ParamsError: not there, not YAML, or much larger than any such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_bomb(text, path)
        return YAML(typ="safe").load(text)
    except FileNotFoundError as error:
        raise ParamsError(f"{path} is not there; run from the repository's folder, or restore it with git.") from error
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def _refuse_bomb(text: str, path: Path) -> None:
    """Raise ParamsError for a text that would take minutes or all memory: read event by event, nothing is built.

    An alias (`*name`) counts as all that it stands for, so what is counted is what its values would unfold to.
    """
    sizes, open_nodes, anchors = dict[str | None, int](), [0], dict[int, str | None]()
    restore = f"restore it with `git checkout {path}`"
    if len(text) > MOST_CHARACTERS:
        raise ParamsError(f"{path} has {len(text):,} characters, more than {MOST_CHARACTERS:,}; {restore}.")
    for event in YAML(typ="safe").parse(text):
        if isinstance(event, CollectionStartEvent):
            anchors[len(open_nodes)] = event.anchor
            open_nodes.append(1)
        elif isinstance(event, CollectionEndEvent):
            size = open_nodes.pop()
            open_nodes[-1] += size
            sizes[anchors[len(open_nodes)]] = size
        elif isinstance(event, ScalarEvent):
            open_nodes[-1] += 1
            sizes[event.anchor] = 1
        elif isinstance(event, AliasEvent):
            open_nodes[-1] += sizes.get(event.anchor, MOST_VALUES)  # a node within itself has no end
        if open_nodes[-1] > MOST_VALUES:
            raise ParamsError(
                f"{path} unfolds to more than {MOST_VALUES:,} values, line {event.start_mark.line + 1}: write values "
                f"out instead of using aliases (&, *), or {restore}."
            )
        if len(open_nodes) > DEEPEST:
            raise ParamsError(
                f"{path} is nested more than {DEEPEST} deep, line {event.start_mark.line + 1}; {restore}."
            )
