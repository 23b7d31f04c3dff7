"""Floating-point operations of matrix products and attention: counted as they run, and those that a step needs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Shape, settings
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.training.batches import Samples


def counted(call: Callable[[], object]) -> int:
    """Operations of `call`: two for each multiplication and addition of a product, forward and backward.

    Attention counts two products forward and five backward (one is done again), half of each where it is causal
    without a mask.
    """
    ops = torch.ops.aten
    mapping = {
        ops._scaled_dot_product_flash_attention_for_cpu: _attention,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        call()
    return counter.get_total_flops()


def _square(query: Any, key: Any, causal: bool) -> int:
    batch, heads, rows, dim = query
    return 2 * batch * heads * rows * key[2] * dim // (2 if causal else 1)


def _attention(query: Any, key: Any, value: Any, dropout: float = 0.0, is_causal: bool = False, **_: Any) -> int:
    return 2 * _square(query, key, is_causal)


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *others: Any, **_: Any) -> int:
    return 5 * _square(query, key, bool(others[3]))  # out, logsumexp, dropout_p, is_causal


def needed(model: LLMSRec, samples: Samples, rows: np.ndarray, shape: Shape) -> float:
    """Operations of steps with one target a row, with nothing padded and nothing computed that nobody reads.

    Text in front of a prompt's first item embedding has no gradient; backward passes give no gradient of weights but
    the heads'. The last layer runs at the read-out alone but for keys and values, the first projects only what is
    trained; items start at their embedding.
    """
    items, times, _ = samples.histories(rows)
    prompts = model.prompts.users(items, times)
    slots = (prompts.slots != 0).sum(axis=1)
    first = (prompts.slots != 0).argmax(axis=1)
    users = sum(
        _prompt(shape, 0, int(length), int(count)) + _prompt(shape, int(start), int(length), int(count), backward=True)
        for length, count, start in zip(prompts.lengths, slots, first, strict=True)
    )
    prefix = model.prompts.item_prefixes(np.arange(1, samples.items + 1))[1].mean()
    size = len(model.prompts.item_tail) + 2
    candidates = len(rows) * settings().model.candidates
    ends = prefix + size
    item = _prompt(shape, prefix, ends, 2) + _prompt(shape, prefix, ends, 2, backward=True)
    heads = sum(p.numel() for head in (model.f_I, model.f_item) for p in head.parameters()) * candidates
    heads += sum(p.numel() for p in model.f_I.parameters()) * int(slots.sum() - len(rows))
    heads += sum(p.numel() for head in (model.f_user, model.f_cf_user) for p in head.parameters()) * len(rows)
    return users + candidates * item + 3 * 2 * heads


def _prompt(shape: Shape, begin: float, end: float, trained: int, backward: bool = False) -> float:
    """One pass over the positions `begin` up to `end` of a prompt, of which `trained` hold what is trained."""
    width, run = shape.width, end - begin
    projection, rest = 2 * width**2, 2 * (width**2 + 3 * 2 * width**2)  # one of q, k, v; output and feed-forward
    seen = (end * (end + 1) - begin * (begin + 1)) / 2
    attention = 4 * width * (2 if backward else 1)
    layers = shape.layers
    return (
        3 * projection * trained
        + (layers - 2) * 3 * projection * run
        + (layers - 1) * (rest * run + attention * seen)
        + 2 * projection * run
        + projection
        + rest
        + attention * end
    )
