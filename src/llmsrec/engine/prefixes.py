"""Item prompts from their embedding on: what stands before it is computed once, without gradient, and kept.

An item prompt reads `... "Title": <title>, [item embedding], then generate item representation token: [ItemOut]`. In a
causal, frozen model the keys and values of everything before the embedding never change, so a training step and an
evaluation run only the last few positions of each item.
"""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llmsrec.engine.decoder import Decoder, mask_after
from llmsrec.engine.prefix_store import Budget, File, Memory, Store, digest, groups, make_room
from llmsrec.engine.readout import ItemInputs, keys_and_values
from llmsrec.errors import DataError
from llmsrec.prompts.retrieval import Prompts

GROUP, CUDA_GROUP = 16, 256  # items whose prefixes are computed together; CUDA takes as long for few as for many
TRIES = 3  # of reading items back that were damaged in between


class ItemPrefixes:
    """Keys and values of item prompts' constant beginnings, filled in as items are first asked for.

    Args:
        model: base model of a causal, frozen backbone.
        decoder: runs it, if it is Llama-like.
        prompts: prompts of the catalogue.
        items: I, the number of items.
        budget: of the keys and values, see `keep`; nothing is kept if None.

    Attributes:
        store: None where they are computed at each use.
        lengths: `[I + 1]` tokens of each prefix; 0 for item 0.
        group: `[I + 1]` number of the group that each item is computed with.
    """

    def __init__(
        self, model: nn.Module, decoder: Decoder | None, prompts: Prompts, items: int, budget: Budget | None = None
    ) -> None:
        self.model, self.decoder = model, decoder
        self.tail = torch.tensor(prompts.item_tail, device=model.device)  # type: ignore[arg-type]
        self._embedded = prompts.settings.item_embedding
        self._tokens, lengths = prompts.item_prefixes(np.arange(1, items + 1))
        self.lengths = torch.from_numpy(np.concatenate([[0], lengths])).to(self.tail.device)
        self.group = np.zeros(items + 1, dtype=np.int64)
        together = CUDA_GROUP if self.tail.is_cuda else GROUP
        self._groups = list(groups(self.lengths.cpu().numpy(), together))
        for number, members in enumerate(self._groups):
            self.group[members] = number
        self.store: Store | None = None
        if budget is not None:
            self.keep(budget)

    def keep(self, budget: Budget) -> None:
        """From now on keep keys and values, if they do not take more than `budget`: in memory, or in a file."""
        self.store = self._choose(budget)

    def read_out(self, item_ids: Tensor, item_inputs: ItemInputs, out: Tensor) -> Tensor:
        """Hidden states at [ItemOut] of `[n]` items, `[n, d_llm]` float32; the same as whole prompts give."""
        embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        dtype, count = embedding.weight.dtype, len(item_ids)
        past = self._gather(item_ids)
        last = [embedding(self.tail).expand(count, -1, -1), out.to(dtype).expand(count, 1, -1)]
        if self._embedded:
            last.insert(0, item_inputs(item_ids).to(dtype)[:, None])
        inputs = torch.cat(last, dim=1)
        size, lengths = inputs.shape[1], self.lengths[item_ids]
        steps = torch.arange(size, device=inputs.device)
        present = torch.arange(past.shape[3], device=inputs.device) < lengths[:, None]
        positions = lengths[:, None] + steps
        if self.decoder is None:
            cache = DynamicCache(config=self.model.config)  # type: ignore[arg-type]
            for layer in range(len(past) // 2):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            mask = torch.cat([present, present.new_ones(inputs.shape[:2])], dim=1).long()
            options = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
            return self.model(inputs_embeds=inputs, **options).last_hidden_state[:, -1].float()
        mask = mask_after(present, size, dtype)
        read = torch.full((count, 1), size - 1, device=inputs.device)
        return self.decoder(inputs, read, mask, positions, list(past))[:, 0]

    def _choose(self, budget: Budget) -> Store | None:
        sample = self._compute(np.array([1]))
        size = int(self.lengths.sum()) * sample[0].numel() * sample.element_size()
        if size <= budget.memory:
            return Memory(self.lengths, sample)
        if budget.folder is not None and size <= budget.disk:
            name = digest(self.model, [self._tokens, self.lengths.cpu().numpy()])
            path = budget.folder / f"{name}.kv"
            make_room(budget.folder, path, size, budget.disk)
            print(f"item prefixes are kept in {path} ({size / 2**30:.2f} GiB)", flush=True)
            return File(path, self.lengths, sample)
        print(
            f"item prefixes take {size / 2**30:.2f} GiB, more than `backbone.prefixes` allows: "
            "they are computed at each use",
            flush=True,
        )
        return None

    def _gather(self, item_ids: Tensor) -> Tensor:
        """Keys and values of each layer in turn, `[2 * layers, n, heads, W, d_head]`, padded on the right."""
        lengths = self.lengths[item_ids]
        if self.store is None:
            rows, starts = self._compute(item_ids.cpu().numpy()), lengths.cumsum(0) - lengths
        else:
            rows, starts = self._kept(self.store, item_ids)
        width = torch.arange(int(lengths.max()), device=lengths.device).clamp(max=lengths[:, None] - 1)
        return rows[starts[:, None] + width].permute(2, 0, 3, 1, 4).contiguous()

    def _kept(self, store: Store, item_ids: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(TRIES):
            self._fill(store, item_ids)
            if (kept := store.get(item_ids)) is not None:
                return kept
        raise DataError(
            f"item prefixes that were just written to the folder of `backbone.prefixes` came back altered {TRIES} "
            "times; see whether something else writes there, or set `backbone.prefixes.disk` to 0."
        )

    def _fill(self, store: Store, item_ids: Tensor) -> None:
        missing = store.missing(item_ids).cpu().numpy()
        for number in np.unique(self.group[missing]):
            members = self._groups[number]
            store.put(torch.from_numpy(members).to(item_ids.device), self._compute(members))

    @torch.no_grad()
    def _compute(self, item_ids: np.ndarray) -> Tensor:
        """Keys and values of the items' prefixes, `[tokens of all of them, 2 * layers, heads, d_head]`."""
        lengths = self.lengths[torch.from_numpy(item_ids).to(self.lengths.device)]
        token_ids = torch.from_numpy(self._tokens[item_ids - 1, : int(lengths.max())]).to(lengths.device)
        present = torch.arange(token_ids.shape[1], device=lengths.device) < lengths[:, None]
        parts, (items, places) = keys_and_values(self.model, token_ids, present.long()), present.nonzero(as_tuple=True)
        return torch.stack([part.transpose(1, 2)[items, places] for part in parts], dim=1)
