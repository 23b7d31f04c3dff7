"""A decoder on torch, as `kept.Kept` runs it from where what is kept ends."""

import numpy as np
import torch
from torch import Tensor

from llmsrec.engine.decoder import Decoder, mask_after
from llmsrec.engine.readout import ItemInputs, embed
from llmsrec.prompts.retrieval import OUT, PromptBatch


class TorchLayers:
    """See `kept.Layers`.

    Args:
        decoder: of a frozen model.
        item_inputs, out: as of `readout.read_out`; what is kept holds the former, so they stay the same for good.
    """

    def __init__(self, decoder: Decoder, item_inputs: ItemInputs, out: Tensor) -> None:
        self._decoder, self._item_inputs, self._out = decoder, item_inputs, out

    @torch.no_grad()
    def head(self, prompts: PromptBatch) -> Tensor:
        """Keys and values `[2 * layers, heads, P, d_head]` of what prompts begin with, one token at least."""
        return self._decoder.head(prompts)

    def joined(self, parts: list[Tensor]) -> Tensor:
        """Keys and values behind each other, as a copy."""
        return torch.cat(parts, dim=2)

    @torch.no_grad()
    def follow(self, prompts: PromptBatch, pasts: list[Tensor]) -> tuple[np.ndarray, Tensor]:
        """See `kept.Layers`."""
        starts = np.array([past.shape[2] for past in pasts])
        inputs, slots = embed(self._decoder.model, prompts, self._item_inputs, self._out, None)
        past = pasts[0].new_zeros((len(pasts[0]), len(pasts), pasts[0].shape[1], starts.max(), pasts[0].shape[3]))
        for row, (start, of_row) in enumerate(zip(starts, pasts, strict=True)):
            past[:, row, :, :start] = of_row
        device, steps = inputs.device, np.arange(inputs.shape[1])
        positions = torch.from_numpy(starts[:, None] + steps).to(device)
        read = (slots == OUT).int().argmax(dim=1, keepdim=True)
        mask = None  # where all begin alike, causal attention skips what a mask would hide
        if any(past is not pasts[0] for past in pasts):
            present = torch.from_numpy(np.arange(starts.max()) < starts[:, None]).to(device)
            mask = mask_after(present, len(steps), inputs.dtype)
        new: list[Tensor] = []
        hidden = self._decoder(inputs, read, mask, positions, list(past), kept=new)
        return hidden[:, 0].cpu().numpy(), torch.stack(new)
