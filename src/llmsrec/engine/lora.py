"""LoRA adapters on a backbone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from llmsrec.engine.backbone import Backbone
from llmsrec.errors import ParamsError

LoraTargets = Literal["query_value", "all_linear"]
QUERY_VALUE = (  # what families of models call the layers of queries and values
    *(("q_proj", "v_proj"), ("query", "value"), ("query_proj", "value_proj"), ("q_lin", "v_lin"), ("q", "v")),
    *(("q_head", "v_head"), ("q_b_proj", "kv_b_proj")),
    *(("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",)),
)


def tuned(backbone: Backbone, loading: Mapping[str, Any], seed: int) -> Backbone:
    """The backbone with the adapters that a model's config.json asks for, if any; see `add_lora`.

    Args:
        loading: `lora_rank` (0: none), and where they are not the usual ones `lora_alpha` and `lora_targets`.
    """
    if not loading["lora_rank"]:
        return backbone
    others = {key: loading[f"lora_{key}"] for key in ("alpha", "targets") if f"lora_{key}" in loading}
    return add_lora(backbone, loading["lora_rank"], seed, **others)


def add_lora(
    backbone: Backbone, rank: int, seed: int, alpha: int | None = None, targets: LoraTargets = "all_linear"
) -> Backbone:
    """The backbone with trainable LoRA adapters; its own weights stay frozen.

    Adapters are float32; beside bfloat16 weights their products run in bfloat16 all the same (autocast).

    Args:
        alpha: what an adapter adds is scaled by alpha / rank; twice the rank if None.
        targets: on which linear layers: all, or those of the attention's queries and values.

    Raises:
        ParamsError: the model has no layers of queries and values.
    """
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        names = "all-linear" if targets == "all_linear" else query_value(backbone.model)
        config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=names)
        model: Any = get_peft_model(backbone.model, config)  # type: ignore[arg-type]
    if backbone.model.dtype == torch.bfloat16:
        model.forward = torch.autocast(model.device.type, torch.bfloat16)(model.forward)
    return replace(backbone, model=model)


def query_value(model: nn.Module) -> list[str]:
    """Names of the linear layers that make the attention's queries and values, as the model at hand calls them; of the
    layer that makes both with the keys, where there is only that.

    Raises:
        ParamsError: the model has none that are known.
    """
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "weight")}
    for members in QUERY_VALUE:
        if names.issuperset(members):
            return list(members)
    raise ParamsError(
        f"`lora.targets` is query_value, but {type(model).__name__} has no layers of queries and values whose names "
        "are known; set it to all_linear."
    )
