"""BERT4Rec: a transformer that sees a history from both sides, asked for masked items (Sun et al., "BERT4Rec:
Sequential Recommendation with Bidirectional Encoder Representations from Transformer", 2019).

A history's next item is asked for by a mask behind its last item. The table of items is both input and output, and an
item has a bias.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmsrec.models.cf.block import FORBIDDEN, Block
from llmsrec.models.cf.teacher import MASK, Teacher, drop, with_one


class BERT4Rec(Teacher):
    """See `Teacher`; `forward` takes one position more, as the mask stands behind a history.

    Positions count from the end, so that the mask of the next item has the same one in every history.

    Args:
        items: the number of items I; their ids are 1..I, and MASK stands for a masked one.
        dim: the width of an item's vector and of all layers; with the item's bias d = dim + 1.
        blocks: transformer blocks, post-norm, with a GELU feed-forward layer of 4 dim.
        heads: attention heads a block.
        max_length: the longest history.
        dropout: on embeddings, attention weights and both sublayers, while training.
    """

    system = "bert4rec"

    def __init__(self, items: int, dim: int, blocks: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.config = {
            "items": items,
            "dim": dim,
            "blocks": blocks,
            "heads": heads,
            "max_length": max_length,
            "dropout": dropout,
        }
        self.max_length = max_length
        self.dropout = dropout
        self.item = nn.Embedding(items + 1, dim + 1, padding_idx=0)
        self.mask = nn.Parameter(torch.zeros(1, dim))
        self.position = nn.Embedding(max_length + 1, dim)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            Block(dim, heads, dropout, "post", feed_forward=4, activation="gelu", low_pass=0.0) for _ in range(blocks)
        )
        self.output = nn.Linear(dim, dim)
        self.output_norm = nn.LayerNorm(dim)

    def first_values(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """So that a mask guesses at first what is like the items around it: values, outputs and head pass vectors on.

        The way from an item's vector to a mask's leads through these matrices alone. With random ones a next item's
        vector is drawn to a random picture of those before it, and epochs pass before like items have like vectors
        (docs/experiments.md). An item's bias is 0.
        """
        super().first_values(name, parameter, generator)
        if parameter is self.item.weight:
            parameter[:, -1] = 0
        elif name.endswith("query_key_value.weight"):
            nn.init.eye_(parameter[-parameter.shape[1] :])
        elif name.endswith("output.weight"):
            nn.init.eye_(parameter)

    def forward(self, items: Tensor) -> Tensor:
        """`[B, L]` int64 with masks -> `[B, L, d]`: at a mask, what is guessed of the item there."""
        return self._encode(items, items.shape[1])

    def last(self, items: Tensor) -> Tensor:
        """The user vectors `[B, d]` of histories `[B, L]`: what is guessed of a masked item behind them."""
        return self._encode(F.pad(items, (0, 1), value=MASK), 1)[:, -1]

    def _encode(self, items: Tensor, asked: int) -> Tensor:
        """`[B, asked, d]`: of the last positions alone, as the last block computes no other."""
        length = items.shape[1]
        rate = self.dropout if self.training else 0.0
        hidden = (items == MASK)[..., None]
        item = torch.where(hidden, self.mask, self.item(items.masked_fill(hidden[..., 0], 0))[..., :-1])
        positions = torch.arange(length - 1, -1, -1, device=items.device)
        x = drop(self.norm(item + self.position(positions)), rate)
        itself = torch.eye(length, dtype=torch.bool, device=items.device)
        mask = torch.where((items != 0)[:, None, None, :] | itself, 0.0, FORBIDDEN)
        real = (items != 0)[..., None].to(x.dtype)
        for number, block in enumerate(self.blocks, start=1):
            if number == len(self.blocks):
                mask = mask[:, :, -asked:]
            x = block(x, real, mask, mask)  # the last is of a filter, which these blocks do not have
        return with_one(self.output_norm(F.gelu(self.output(x))))
