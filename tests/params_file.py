"""Values of a params.yaml, set as a person would: comments and order stay."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def set_params(path: Path, values: dict[str, Any]) -> None:
    """Set keys, such as `model.d_prime`, that the file has."""
    yaml = YAML()
    params = yaml.load(path)
    for key, value in values.items():
        *parents, last = key.split(".")
        node = params
        for parent in parents:
            node = node[parent]
        assert last in node, key
        node[last] = value
    yaml.dump(params, path)
