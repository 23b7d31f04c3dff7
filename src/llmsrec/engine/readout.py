"""From prompts to the hidden states that are read out at [UserOut] and [ItemOut]."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llmsrec.prompts.retrieval import OUT, USER_REPRESENTATION, PromptBatch

ItemInputs = Callable[[Tensor], Tensor]  # item ids `[n]` to f_I(E) `[n, d_llm]`


def read_out(
    model: nn.Module,
    prompts: PromptBatch,
    item_inputs: ItemInputs,
    out: Tensor,
    user_inputs: Tensor | None = None,
) -> Tensor:
    """Run whole prompts through the language model (the plain form: nothing is reused, nothing left out).

    Args:
        model: base model of a backbone.
        prompts: `B` prompts, with `R` out tokens in all: one each, or one for each branch.
        out: `[d_llm]`, the learned token.
        user_inputs: `[B, d_llm]`, f_U(O_u), where the prompt holds it.

    Returns:
        `[R, d_llm]` last hidden states at the learned tokens, row by row, float32.
    """
    inputs, slots = embed(model, prompts, item_inputs, out, user_inputs)
    lengths = torch.from_numpy(prompts.lengths).to(inputs.device)
    present = torch.arange(slots.shape[1], device=inputs.device) < lengths[:, None]
    options = {"attention_mask": present.long()}
    if prompts.branches is not None:
        options = branched(prompts, inputs.dtype, inputs.device)
    hidden = model(inputs_embeds=inputs, use_cache=False, **options).last_hidden_state
    return hidden[slots == OUT].float()


def read_out_by_length(
    model: nn.Module,
    prompts: PromptBatch,
    item_inputs: ItemInputs,
    out: Tensor,
    user_inputs: Tensor | None = None,
) -> Tensor:
    """As `read_out`, of prompts without branches, in batches of one length: for a model that does not mask padding."""
    order, hidden = [], []
    for length in np.unique(prompts.lengths):
        rows = np.flatnonzero(prompts.lengths == length)
        batch = PromptBatch(prompts.token_ids[rows, :length], prompts.slots[rows, :length], prompts.lengths[rows])
        inputs = None if user_inputs is None else user_inputs[torch.from_numpy(rows).to(user_inputs.device)]
        hidden.append(read_out(model, batch, item_inputs, out, inputs))
        order.append(rows)
    places = torch.from_numpy(np.argsort(np.concatenate(order))).to(out.device)
    return torch.cat(hidden)[places]


def embed(
    model: nn.Module, prompts: PromptBatch, item_inputs: ItemInputs, out: Tensor, user_inputs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The model's inputs `[B, L, d_llm]`, trained vectors in the slots, and the slots `[B, L]` on its device."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    device, dtype = embedding.weight.device, embedding.weight.dtype
    slots = torch.from_numpy(prompts.slots).to(device)
    inputs = embedding(torch.from_numpy(prompts.token_ids).to(device))
    if (prompts.slots > 0).any():  # else f_I would have a gradient of zeros
        items = slots > 0
        inputs[items] = item_inputs(slots[items]).to(dtype)
    inputs[slots == OUT] = out.to(dtype)
    if user_inputs is not None:
        inputs[slots == USER_REPRESENTATION] = user_inputs.to(dtype)
    return inputs, slots


def branched(prompts: PromptBatch, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """The attention mask and position ids under which a branch follows its part of the trunk and nothing else.

    Returns:
        `attention_mask` `[B, 1, L, L]` to add to attention scores: 0 where a position (dim 2) sees another (dim 3),
        else the type's finite minimum; `position_ids` `[B, L]`.
    """
    branches = torch.from_numpy(prompts.branches).to(device)
    visible = torch.from_numpy(prompts.visible).to(device)
    place = torch.arange(branches.shape[1], device=device)
    same = branches[:, :, None] == branches[:, None, :]
    trunk = (branches[:, None, :] == 0) & (place < visible[:, :, None])
    sees = (same & (place <= place[:, None])) | trunk
    mask = torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill_(~sees, torch.finfo(dtype).min)
    # Within its branch, a position's number starts where the visible trunk ends.
    first = torch.where(branches.diff(dim=1, prepend=branches[:, :1]) != 0, place, 0).cummax(dim=1).values
    positions = torch.where(branches > 0, visible + place - first, place)
    # Padding could come to stand beyond a model's last position.
    present = place < torch.from_numpy(prompts.lengths).to(device)[:, None]
    return {"attention_mask": mask[:, None], "position_ids": positions.masked_fill(~present, 0)}


@torch.no_grad()
def keys_and_values(model: nn.Module, token_ids: Tensor, attention_mask: Tensor | None = None) -> list[Tensor]:
    """Keys and values `[B, heads, L, d_head]` of each layer in turn, of texts `[B, L]`."""
    cache: Any = DynamicCache(config=model.config)  # type: ignore[arg-type]
    model(input_ids=token_ids, attention_mask=attention_mask, past_key_values=cache)
    return [part for layer in cache.layers for part in (layer.keys, layer.values)]
