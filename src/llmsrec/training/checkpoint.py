"""The state that a killed run goes on from: one file, whole or not there, and one trainer at a time.

A checkpoint is a safetensors file (no pickle) whose header holds the loop's state as JSON and a digest of everything.
Of several processes the first writes it and all read it; it holds nothing of their number, so any number goes on.
"""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.errors import DataError
from llmsrec.files import atomic

ADAM = ("exp_avg", "exp_avg_sq", "step")


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-able `state` to `path`, which is replaced only once the new file is whole.

    Raises:
        DataError: the file cannot be written (a full disk, a missing permission); the old one is still there.
    """
    if not distributed.is_main():
        return
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    metadata = {"state": text, "sha256": _digest(tensors, text)}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load(
    path: Path, tensors: dict[str, Tensor] | None = None, state: dict[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save` wrote: tensors on the CPU, and the state. None if there is no file.

    A damaged file counts as none, and so does one whose content cannot be gone on with (a number that is not finite,
    tensors or a state of another kind); a printed line says so: starting again is always right, only slower.

    Args:
        tensors: those that must be there, for their names, types and shapes; beside them only an Adam-like
            optimiser's state of any `model/<name>` among them may be.
        state: an example of the state; the first entry of a list stands for all of them.

    Raises:
        DataError: several processes read different files.
    """
    loaded = _read(path, tensors, state)
    distributed.agree(json.dumps(loaded and loaded[1]), f"checkpoint {path}")
    return loaded


def _read(
    path: Path, expected: dict[str, Tensor] | None, example: dict[str, Any] | None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        if _digest(tensors, metadata["state"]) != metadata["sha256"]:
            raise ValueError("its content does not match its digest")
        state = json.loads(metadata["state"])
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{name} is not finite")
        if expected is not None:
            _same_kind(tensors, expected)
        if example is not None and not _like(state, example):
            raise ValueError("its state is not that of this training")
        return tensors, state
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        print(f"warning: the checkpoint {path} is damaged ({error}); starting from the beginning.", flush=True)
        return None


def _same_kind(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError where a tensor is missing, unknown, or of another type or shape."""
    for name, tensor in expected.items():
        if name not in tensors:
            raise ValueError(f"{name} is missing")
        if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
            raise ValueError(f"{name} is {_kind(tensors[name])}, not {_kind(tensor)}")
    for name in tensors.keys() - expected.keys():
        parameter, _, key = name.removeprefix("optimizer/").rpartition("/")
        of = expected.get(f"model/{parameter}")
        if of is None or key not in ADAM or tensors[name].shape != (of.shape if key != "step" else ()):
            raise ValueError(f"{name} is not of this training")
        if any(f"optimizer/{parameter}/{other}" not in tensors for other in ADAM):
            raise ValueError(f"the optimiser's state of {parameter} is incomplete")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _like(value: Any, example: Any) -> bool:
    """Whether plain values have the same keys and types, and finite numbers."""
    if isinstance(example, dict):
        return isinstance(value, dict) and all(key in value and _like(value[key], example[key]) for key in example)
    if isinstance(example, list):
        return isinstance(value, list) and all(_like(entry, example[0]) for entry in value)
    if isinstance(example, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is type(example)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """An Adam-like optimiser's state as `{"optimizer/<parameter's name>/<exp_avg | exp_avg_sq | step>": tensor}`."""
    return {
        f"optimizer/{name}/{key}": value
        for name, parameter in parameters
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, nn.Parameter]], tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took; other entries of `tensors` are left alone."""
    names = {parameter: name for name, parameter in parameters}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(ordered):
        prefix = f"optimizer/{names[parameter]}/"
        entries = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if entries:
            state[index] = entries
    # torch's own loader knows on which device each entry belongs
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this run, that is its first process; the lock goes with the process, however it ends.

    Who comes second waits, or it would write the same checkpoint: two experiments at once may share a stage, and
    killing `dvc repro` leaves its trainer alive.

    Raises:
        DataError: the folder cannot be written.
    """
    if not distributed.is_main():
        yield
        return
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; fix the permissions or free some space.") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            print(
                f"waits for another trainer of the same (process {holder}): of an experiment beside this one, or left "
                f"over from a killed `dvc repro`; end that process to go on at once. It holds {folder}",
                flush=True,
            )
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """Hex sha256 over the state's text and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
