"""A device that is not the CPU, on a machine that has none: its tensors will not meet a CPU tensor.

Within `other_device()`, tensors of the device `meta`, which PyTorch knows everywhere, have values all the same,
computed on the CPU. As CUDA does, it refuses an operation on tensors of two devices, but for CPU scalars and CPU
indices. So code that forgets to move something fails here. It says nothing of CUDA's kernels, speed or rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
make, to_list = torch.tensor, Tensor.tolist


class Remote(Tensor):
    """A tensor of the other device, which holds its values as a CPU tensor."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Remote":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.shape, device=torch.device(NAME), **layout)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(function, args, kwargs or {})


class Dispatch(TorchDispatchMode):
    """Sees what makes a tensor on the other device from nothing, or from a CPU tensor."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(function, args, kwargs or {})


def call(function: Any, args: Any, kwargs: Any) -> Any:
    """An operation on CPU tensors in the place of the other device's, whose result is on the device it would be on."""
    name, device = function.overloadpacket.__name__, kwargs.get("device")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    remote = [tensor for tensor in tensors if isinstance(tensor, Remote)]
    local = [tensor for tensor in tensors if not isinstance(tensor, Remote)]
    indexes = name in INDEXING and all(isinstance(tensor, Remote) for tensor in (args[0], *args[2:3]))
    if remote and name not in ("_to_copy", "copy_") and not indexes and any(tensor.dim() for tensor in local):
        raise RuntimeError(f"{function} got tensors of two devices: {[tuple(part.shape) for part in local]} on the CPU")
    if device is not None:
        on_device, kwargs = device.type == NAME, kwargs | {"device": torch.device("cpu")}
    elif name == "copy_":
        on_device = isinstance(args[0], Remote)
    else:
        on_device = bool(remote)
    in_place = {id(tensor.held): tensor for tensor in remote}

    def place(leaf: Any) -> Any:
        if not on_device or not isinstance(leaf, Tensor):
            return leaf
        return in_place[id(leaf)] if id(leaf) in in_place else Remote(leaf)

    args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Remote) else leaf, (args, kwargs))
    return tree_map(place, function(*args, **kwargs))


@contextmanager
def other_device() -> Iterator[str]:
    """Gives the device's name."""

    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:  # PyTorch would leave out the values
        made = make(*args, **kwargs)
        return made if device is None else made.to(device)

    with pytest.MonkeyPatch.context() as patch, Dispatch():
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(Tensor, "tolist", lambda self: to_list(self.held if isinstance(self, Remote) else self))
        yield NAME


@contextmanager
def cuda() -> Iterator[str]:
    """The real thing, with the order of sums that `stages/` asks of it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield "cuda"
    finally:
        torch.use_deterministic_algorithms(before)


PLACES = [
    pytest.param(other_device, id="pretended"),
    pytest.param(cuda, id="cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
