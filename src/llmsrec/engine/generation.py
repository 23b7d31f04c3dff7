"""Text that a language model writes after a prompt, always the likeliest token next (greedy)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmsrec.engine.likelihood import Prefilled, States, separately
from llmsrec.engine.vocabulary import Vocabulary


@torch.no_grad()
def greedy(
    model: Any, vocabulary: Vocabulary, prompts: Prefilled, end: int, most: int, states: States
) -> list[list[int]]:
    """What the model writes after each of `B` prompts, without the token that ends a text.

    Args:
        end: that token.
        most: so many tokens are written at most, the end among them.
        states: the way that is right on this model for titles' likelihoods (`likelihood.choose`): where a prompt's keys
            and values can be gone on from, they are; else the whole text is run again for each token.
    """
    write = _plainly if states is separately else _with_cache
    token_ids = write(model, vocabulary, prompts, end, most).cpu().numpy()
    ended = token_ids == end
    sizes = np.where(ended.any(axis=1), ended.argmax(axis=1), token_ids.shape[1])
    return [row[:size].tolist() for row, size in zip(token_ids, sizes, strict=True)]


def _with_cache(model: Any, vocabulary: Vocabulary, prompts: Prefilled, end: int, most: int) -> Tensor:
    cache, present = prompts.cache(model.config), prompts.present
    written = vocabulary(prompts.last).argmax(dim=1, keepdim=True)
    while written.shape[1] < most and not (written == end).any(dim=1).all():
        present = torch.cat([present, present.new_ones(len(written), 1)], dim=1)
        hidden = model(
            inputs_embeds=model.get_input_embeddings()(written[:, -1:]),
            attention_mask=present.long(),
            position_ids=prompts.lengths[:, None] + written.shape[1] - 1,
            past_key_values=cache,
        ).last_hidden_state[:, -1]
        written = torch.cat([written, vocabulary(hidden).argmax(dim=1, keepdim=True)], dim=1)
    return written


def _plainly(model: Any, vocabulary: Vocabulary, prompts: Prefilled, end: int, most: int) -> Tensor:
    """The plain form: every token anew from the whole text, prompt by prompt."""
    written = torch.full((len(prompts.lengths), most), end, device=prompts.lengths.device)
    for row, length in enumerate(prompts.lengths.tolist()):
        text = prompts.inputs[row, :length]
        for place in range(most):
            hidden = model(inputs_embeds=text[None], use_cache=False).last_hidden_state[0, -1:]
            written[row, place] = vocabulary(hidden).argmax()
            if written[row, place] == end:
                break
            text = torch.cat([text, model.get_input_embeddings()(written[row, place])[None]])
    return written
