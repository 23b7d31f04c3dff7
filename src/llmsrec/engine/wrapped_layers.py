"""A backbone's layers with the same values at another price: computed again for gradients, or compiled."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from llmsrec.errors import ParamsError

VARIANTS = 64  # of a layer's code that torch.compile makes (with a mask, with a gradient, ...) before it gives up


def checkpoint_layers(model: nn.Module) -> None:
    """Have each layer keep its input for the backward pass and compute the rest again there: the same values and
    gradients from far less memory, for more time (docs/scaling.md).

    transformers' own switch needs training mode, and drops the keys and values that a pass goes on from; here such a
    pass, a few positions long, is left as it is.

    Raises:
        ParamsError: no layer of the model can do so.
    """
    for layer in _layers(model, "gradient_checkpointing", "computed again"):
        layer.gradient_checkpointing = True
        layer.forward = partial(_forward_again, layer.forward)  # type: ignore[method-assign]


def compile_layers(model: nn.Module) -> None:
    """Have torch.compile make kernels of each layer when it first runs: see `compiled`.

    Raises:
        ParamsError: no layer of the model can be, or no compiler works here.
    """
    for layer in _layers(model, "compile", "compiled"):
        layer.forward = compiled(layer.forward)  # type: ignore[method-assign]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for inputs of any length: the same values but for rounding, and a slow first call.

    Raises:
        ParamsError: no compiler works here.
    """
    try_compiler()
    return torch.compile(function, dynamic=True, recompile_limit=VARIANTS)  # type: ignore[call-overload]


@cache
def try_compiler() -> None:
    """Compile something small, once.

    Raises:
        ParamsError: it cannot be done here.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        torch.compile(lambda x: x.neg().relu())(torch.ones(2, device="cuda" if torch.cuda.is_available() else "cpu"))
    except BackendCompilerFailed as error:
        raise ParamsError(
            f"`backbone.compile` is true, but torch.compile fails here ({str(error).splitlines()[0]}); install a C++ "
            "compiler such as g++, or set it to false."
        ) from error


def _layers(model: nn.Module, key: str, done: str) -> list[Any]:
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ParamsError(
            f"`backbone.{key}` is true, but {type(model).__name__} has no layers that can be {done}; set it to false."
        )
    return layers


def _forward_again(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    goes_on = any(isinstance(value, Cache) for value in (*arguments, *options.values()))
    if goes_on or not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, **options)
