"""YAML files that people write: params.yaml and systems/*.yaml."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
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
        yaml = YAML(typ="safe")
        yaml.Constructor = _Constructor
        return yaml.load(text)
    except FileNotFoundError as error:
        raise ParamsError(f"{path} is not there; run from the repository's folder, or restore it with git.") from error
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}.") from error
    except (YAMLError, ValueError) as error:  # no UTF-8, or an escape of no character
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


class _Constructor(SafeConstructor):
    """ruamel's, but that a value which no number or date can be made of is an error of YAML's, and has a line."""

    def construct_non_recursive_object(self, node: Any, tag: str | None = None) -> Any:
        try:
            return super().construct_non_recursive_object(node, tag)
        except (ValueError, LookupError) as error:
            why = f"no value can be made of it: {error}"
            raise ConstructorError(None, None, why, node.start_mark) from error


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
            sizes[event.anchor] = MOST_VALUES  # while it is open: a node within itself has no end
            open_nodes.append(1)
        elif isinstance(event, CollectionEndEvent):
            size = open_nodes.pop()
            open_nodes[-1] += size
            sizes[anchors[len(open_nodes)]] = size
        elif isinstance(event, ScalarEvent):
            open_nodes[-1] += 1
            sizes[event.anchor] = 1
        elif isinstance(event, AliasEvent):
            open_nodes[-1] += sizes.get(event.anchor, 1)  # what is not there is said when the text is loaded
        if open_nodes[-1] > MOST_VALUES:
            raise ParamsError(
                f"{path} unfolds to more than {MOST_VALUES:,} values, line {event.start_mark.line + 1}: write values "
                f"out instead of using aliases (&, *), or {restore}."
            )
        if len(open_nodes) > DEEPEST:
            raise ParamsError(
                f"{path} is nested more than {DEEPEST} deep, line {event.start_mark.line + 1}; {restore}."
            )
