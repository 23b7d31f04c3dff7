"""Item prompts from their embedding on: what stands before it is computed once, without gradient, and kept.

An item prompt reads `... "Title": <title>, [item embedding], then generate item representation token: [ItemOut]`. In a
causal, frozen model the keys and values of everything before the embedding never change, so a training step and an
evaluation run only the last few positions of each item.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llmsrec.models.prompts import Prompts

CHUNK_TOKENS = 16_384  # prompt tokens in one forward pass without gradient


class ItemPrefixes:
    """Keys and values of item prompts' constant beginnings, filled in as items are first asked for.

    Args:
        model: base model of a causal, frozen backbone.
        prompts: prompts of the catalogue.
        items: I, the number of items.
        budget: bytes that the keys and values may take; where they would take more, they are computed at each use.
    """

    def __init__(self, model: nn.Module, prompts: Prompts, items: int, budget: int) -> None:
        self.model = model
        self.tail = torch.tensor(prompts.item_tail, device=model.device)  # type: ignore[arg-type]
        self._prefixes = [np.array(prompts.item_prefix(i), dtype=np.int64) for i in range(1, items + 1)]
        lengths = torch.tensor([0, *(len(prefix) for prefix in self._prefixes)], device=self.tail.device)
        self.lengths = lengths
        self.offsets = lengths.cumsum(0) - lengths
        self.layers = int(model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        self.store: list[Tensor] | None = None
        self.known = torch.zeros(items + 1, dtype=torch.bool, device=self.tail.device)
        sample = self._compute(np.array([1]))
        per_token = sum(part.element_size() * part.shape[1] * part.shape[2] for part in sample)
        if per_token * int(lengths.sum()) <= budget:
            self.store = [part.new_empty((int(lengths.sum()), *part.shape[1:])) for part in sample]

    def read_out(self, item_ids: Tensor, item_inputs: Callable[[Tensor], Tensor], out: Tensor) -> Tensor:
        """Hidden states at [ItemOut] of `[n]` items, `[n, d_llm]` float32; the same as whole prompts give."""
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        dtype, count = embedding.weight.dtype, len(item_ids)
        keys_values, width = self._gather(item_ids)
        inputs = torch.cat(
            [
                item_inputs(item_ids).to(dtype)[:, None],
                embedding(self.tail).expand(count, -1, -1),
                out.to(dtype).expand(count, 1, -1),
            ],
            dim=1,
        )
        lengths = self.lengths[item_ids]
        steps = torch.arange(inputs.shape[1], device=inputs.device)
        present = torch.arange(width, device=inputs.device) < lengths[:, None]
        mask = torch.cat([present, present.new_ones(inputs.shape[:2])], dim=1)
        cache = DynamicCache(config=self.model.config)  # type: ignore[arg-type]
        for layer in range(self.layers):
            cache.update(keys_values[2 * layer], keys_values[2 * layer + 1], layer)
        hidden = self.model(
            inputs_embeds=inputs,
            attention_mask=mask.long(),
            position_ids=lengths[:, None] + steps,
            past_key_values=cache,
        ).last_hidden_state
        return hidden[:, -1].float()

    def _gather(self, item_ids: Tensor) -> tuple[list[Tensor], int]:
        """Keys and values `[n, heads, W, d_head]` of each layer in turn, padded on the right, and W."""
        lengths = self.lengths[item_ids]
        width = int(lengths.max())
        if self.store is None:
            parts, offsets = self._compute(item_ids.cpu().numpy()), lengths.cumsum(0) - lengths
        else:
            self._fill(item_ids)
            parts, offsets = self.store, self.offsets[item_ids]
        rows = offsets[:, None] + torch.arange(width, device=lengths.device).clamp(max=lengths[:, None] - 1)
        return [part[rows].transpose(1, 2) for part in parts], width

    def _fill(self, item_ids: Tensor) -> None:
        missing = item_ids[~self.known[item_ids]].unique()
        if not len(missing):
            return
        # Items of like length together, so that a chunk holds little padding.
        missing = missing[self.lengths[missing].argsort()]
        for chunk in missing.split(max(1, CHUNK_TOKENS // int(self.lengths.max()))):
            for part, new in zip(self.store or [], self._compute(chunk.cpu().numpy()), strict=True):
                rows = [torch.arange(int(self.lengths[i]), device=part.device) + self.offsets[i] for i in chunk]
                part[torch.cat(rows)] = new
            self.known[chunk] = True

    @torch.no_grad()
    def _compute(self, item_ids: np.ndarray) -> list[Tensor]:
        """Keys and values of the items' prefixes, `[tokens of all of them, heads, d_head]`, of each layer in turn."""
        prefixes = [self._prefixes[i - 1] for i in item_ids.tolist()]
        lengths = torch.tensor([len(prefix) for prefix in prefixes], device=self.tail.device)
        token_ids = torch.zeros((len(prefixes), int(lengths.max())), dtype=torch.long)
        for row, prefix in enumerate(prefixes):
            token_ids[row, : len(prefix)] = torch.from_numpy(prefix)
        present = torch.arange(token_ids.shape[1], device=lengths.device) < lengths[:, None]
        cache = DynamicCache(config=self.model.config)  # type: ignore[arg-type]
        self.model(input_ids=token_ids.to(lengths.device), attention_mask=present.long(), past_key_values=cache)
        parts = [part for layer in cache.layers for part in (layer.keys, layer.values)]  # type: ignore[union-attr]
        return [part.transpose(1, 2)[present] for part in parts]  # type: ignore[union-attr]
