"""What every stage script shares: the parameters it may read, its identity, and how it fails."""

import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llmsrec import params as parameters
from llmsrec import yaml_file
from llmsrec.errors import DataError, LLMSRecError, RequestError, explained, nearest
from llmsrec.files import read_json, sha256, write_json
from stages import COLLECT


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml as it runs now.

    Attributes:
        name: the stage's key in dvc.yaml.
        params: the sections and keys that dvc.yaml lists for this stage, and no others: reading one that is not
            listed is an AttributeError, so `params:` in dvc.yaml cannot fall behind the code.
        digest: hex digest over those parameters and the content of every dependency, code included. Equal digests
            mean the same run (resume folder, MLflow run).
        deps: path in dvc.yaml -> digest of its content.
        root: the repository that relative paths in params.yaml mean; in `--temp` and `--queue` runs it is not the
            current folder.
        folder: that of its dvc.yaml.
    """

    name: str
    params: Any
    digest: str
    deps: dict[str, str]
    root: Path
    folder: Path

    @property
    def address(self) -> str:
        """What `dvc repro` takes for it."""
        return f"{self.folder}/dvc.yaml:{self.name}" if self.folder.parts else self.name

    @property
    def resume(self) -> Path:
        """Folder for the state that a killed run goes on from; outside every out, as DVC deletes those first."""
        return self.root / ".resume" / self.name / self.digest[:32]

    @property
    def duration(self) -> Path:
        """The file that says how many seconds it took, of the last time that these inputs were run here."""
        return self.root / ".cache/durations" / f"{self.name}-{self.digest[:32]}.json"

    def data(self, *parts: str) -> dict[str, str]:
        """Digests of folders below data/ that are dependencies: what a model was made from, for good."""
        return {part: self.deps[f"data/{part}"] for part in parts}

    def path(self, value: str) -> Path:
        """A path from params.yaml, relative to the repository."""
        return (self.root / value).resolve()


def load(name: str, folder: Path = Path(), known: dict[Path, str] | None = None) -> Stage:
    """Read the stage `name` of `folder`/dvc.yaml with its parameters; `train@x` is the item x of the group `train`.

    Args:
        known: digests of what other stages read, by path; those of this stage are added, so that who loads several
            stages reads no file twice.

    Raises:
        RequestError: the group has no such item; the nearest is named.
        DataError: what it depends on is not there.
        ParamsError: see `params.load`.
    """
    known = {} if known is None else known
    spec = yaml_file.read(folder / "dvc.yaml")["stages"][name.partition("@")[0]]
    params, item = parameters.load(Path("params.yaml")), SimpleNamespace()
    if "foreach" in spec:
        key, items = name.partition("@")[2], spec["foreach"]
        if key not in items:
            of_system = [other for other in items if other.partition("-")[0] == key.partition("-")[0]]
            near = nearest(key, of_system or items)
            raise RequestError(f"{folder}/dvc.yaml has no {name}{near} It has: {', '.join(items)}.")
        item, spec = SimpleNamespace(key=key, item=SimpleNamespace(**items[key])), spec["do"]
    place = folder / spec.get("wdir", "")
    listed = spec.get("params", [])
    keys = [_resolve(key, params, item) for key in listed if isinstance(key, str)]
    values = {key: _lookup(params, key) for key in keys}
    plain = {key: value.model_dump() if hasattr(value, "model_dump") else value for key, value in values.items()}
    files = [_resolve(file, params, item) for entry in listed if isinstance(entry, dict) for file in entry]
    plain |= {file: yaml_file.read(place / file) for file in files}
    paths = [_resolve(dep, params, item) for dep in spec.get("deps", [])]
    for path in paths:
        if (whole := (place / path).resolve()) not in known:
            known[whole] = _content(whole, Path(path), folder)
    deps = {path: known[(place / path).resolve()] for path in paths}
    identity = json.dumps({"stage": name, "params": plain, "deps": deps}, sort_keys=True)
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    return Stage(name, _tree(values), hashlib.sha256(identity.encode()).hexdigest(), deps, root, folder)


def run(main: Callable[[Stage], None], name: str, folder: Path = Path(), parallel: bool = False) -> None:
    """Run a stage; an error that a user can meet is printed without a traceback, with exit status 1.

    Args:
        parallel: whether `main` can run in several processes, each on its own device or core, as
            `LLMSREC_PROCESSES=2` or torchrun asks. Their number is no part of the stage's identity.
    """
    gc.freeze()
    gc.set_threshold(*COLLECT)
    try:
        if parallel:
            _run_together(main, name, folder)
        else:
            _timed(main, load(name, folder))
    except Exception as error:
        text = explained(error)
        if text is None:
            raise
        print(f"error in stage {name}: {' '.join(text.split())}", file=sys.stderr, flush=True)
        sys.exit(1)


def run_item(main: Callable[[Stage], None], group: str, folder: Path, parallel: bool = False) -> None:
    """`run` the item of a group that the command line names, as `python -m stages.train gru4rec-retrieval` does."""
    run(main, f"{group}@{''.join(sys.argv[1:2])}", folder, parallel)


def _timed(main: Callable[[Stage], None], stage: Stage) -> None:
    began = time.monotonic()
    main(stage)
    if os.environ.get("RANK", "0") == "0":
        write_json(stage.duration, {"seconds": time.monotonic() - began})


def durations(*names: str, folder: Path = Path(), known: dict[Path, str]) -> dict[str, float]:
    """`llm_srec` -> the seconds that it took; a stage whose outs came from a cache, or lacks an input, is left out.

    Args:
        known: see `load`.
    """
    seconds = {}
    for name in names:
        try:
            file = load(name, folder, known).duration
        except DataError:
            continue
        if file.is_file():
            seconds[name.partition("@")[0]] = read_json(file)["seconds"]
    return seconds


def _run_together(main: Callable[[Stage], None], name: str, folder: Path) -> None:
    from llmsrec import distributed  # torch, which the data's stages need not wait for

    script, _, item = name.partition("@")
    if distributed.launch(f"stages.{script}", *([item] if item else [])):
        return
    try:
        with distributed.joined():
            stage = load(name, folder)
            distributed.agree(stage.digest, "code, parameters and data")
            _timed(main, stage)
    except LLMSRecError as error:
        if distributed.first_to_fail(error):
            raise
        sys.exit(1)


def _content(path: Path, name: Path, folder: Path) -> str:
    """The digest of a dependency at `path`, which `folder`/dvc.yaml calls `name`."""
    if not path.exists():
        makes = " ".join(["dvc repro", *([f"{folder}/dvc.yaml"] if folder.parts else [])])
        raise DataError(f"{name} is not there; `{makes}` makes it, `dvc checkout` brings a removed one back.")
    return sha256(path)


def _lookup(values: Any, key: str) -> Any:
    """`data.core`, or `item.keys[0]`."""
    name, _, index = key.removesuffix("]").partition("[")
    value = reduce(getattr, name.split("."), values)
    return value[int(index)] if index else value


def _resolve(text: str, params: parameters.Params, item: SimpleNamespace) -> str:
    """Fill in `${section.key}` of params.yaml, and a group's `${key}` and `${item.name}`, as DVC does."""
    while "${" in text:
        before, rest = text.split("${", 1)
        key, after = rest.split("}", 1)
        own = key.partition(".")[0] in vars(item)
        text = f"{before}{_lookup(item if own else params, key)}{after}"
    return text


def _tree(values: dict[str, Any]) -> SimpleNamespace:
    """{"a": section, "b.c": 1} -> a namespace with .a and .b.c"""
    tree = SimpleNamespace()
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            if not hasattr(node, parent):
                setattr(node, parent, SimpleNamespace())
            node = getattr(node, parent)
        setattr(node, last, value)
    return tree
