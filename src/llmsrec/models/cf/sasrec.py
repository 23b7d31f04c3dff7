"""SASRec, the collaborative-filtering sequence recommender (CF-SRec) that teaches LLM-SRec (paper, Sec. 3.1).

A causal transformer over the items of a history (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018),
in its pre-norm form, or in BERT's post-norm form with a filter beside the attention (Shin et al., "An Attentive
Inductive Bias for Sequential Recommendation beyond the Self-Attention", 2024: BSARec).
"""

import math

import torch
from torch import Tensor, nn

from llmsrec.models.cf.block import FORBIDDEN, POST, Block
from llmsrec.models.cf.teacher import Teacher, drop

LOWEST = 3  # frequencies that the filter calls low: the mean and the two slowest waves (BSARec's c = 5, for all data)


class SASRec(Teacher):
    """See `Teacher`. Positions count from the end and padded keys are masked, so padding does not matter.

    Args:
        items: the number of items I; their ids are 1..I.
        dim: the width d of all vectors.
        blocks: transformer blocks.
        heads: attention heads a block.
        max_length: the longest history; what is longer loses its oldest items before it comes here.
        dropout: on embeddings, attention weights and both sublayers, while training.
        norm: `pre` or `post`; with `post` the embeddings have a LayerNorm instead of the factor sqrt(d), and there is
            none at the end, as in BERT.
        feed_forward: the inner width of the feed-forward layers, as a multiple of d.
        activation: theirs, `relu` or `gelu`.
        low_pass: the weight of the filter beside the attention, 0 for none; needs `post`. It mixes all positions, so
            that earlier vectors know of later items: `last` alone may then be trained.
    """

    system = "sasrec"
    smooth: Tensor  # [max_length, max_length]

    def __init__(
        self,
        items: int,
        dim: int,
        blocks: int,
        heads: int,
        max_length: int,
        dropout: float,
        norm: str = "pre",
        feed_forward: int = 1,
        activation: str = "relu",
        low_pass: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = {
            "items": items,
            "dim": dim,
            "blocks": blocks,
            "heads": heads,
            "max_length": max_length,
            "dropout": dropout,
            "norm": norm,
            "feed_forward": feed_forward,
            "activation": activation,
            "low_pass": low_pass,
        }
        self.max_length = max_length
        self.dropout = dropout
        self.post = POST[norm]
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position = nn.Embedding(max_length, dim)
        self.blocks = nn.ModuleList(
            Block(dim, heads, dropout, norm, feed_forward, activation, low_pass) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("smooth", low_pass_matrix(max_length), persistent=False)

    def first_values(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Those of the filter's parameter are as large as in the authors' code."""
        if name.endswith("high_frequencies"):
            parameter.normal_(generator=generator)
        else:
            super().first_values(name, parameter, generator)

    def forward(self, items: Tensor) -> Tensor:
        """See `Teacher.forward`."""
        return self._encode(items, last=False)

    def last_only(self, items: Tensor) -> Tensor:
        """`last` but for rounding, for training on prefixes: the last block computes no other position."""
        return self._encode(items, last=True)[:, -1]

    def _encode(self, items: Tensor, *, last: bool) -> Tensor:
        length = items.shape[1]
        positions = torch.arange(length - 1, -1, -1, device=items.device)
        item, position = self.item(items), self.position(positions)
        x = self.norm(item + position) if self.post else item * math.sqrt(self.item.embedding_dim) + position
        x = drop(x, self.dropout if self.training else 0.0)
        mask, smooth = attention_mask(items), self.smooth[-length:, -length:]
        real = (items != 0)[..., None].to(x.dtype)
        for number, block in enumerate(self.blocks, start=1):
            if last and number == len(self.blocks):
                mask, smooth = mask[:, :, -1:], smooth[-1:]
            x = block(x, real, mask, smooth)
        return x if self.post else self.norm(x)


def attention_mask(items: Tensor) -> Tensor:
    """`[B, 1, L, L]` to add to attention scores: 0 where a query (dim 2) sees a key (dim 3), else the finite minimum.

    Seen are the real items up to the query's own. A padded query sees itself alone, so that no row is empty.
    """
    length = items.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=items.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=items.device)
    allowed = (causal & (items != 0)[:, None, None, :]) | itself
    return torch.where(allowed, 0.0, FORBIDDEN)


def low_pass_matrix(length: int) -> Tensor:
    """`[L, L]`: times a sequence `[L, d]` the same as a Fourier transform, all but `LOWEST` frequencies put to 0, and
    back.

    A wave of k turns over the L positions has the matrix 2 cos(2 pi k (i - j) / L) / L, the mean (k = 0) half of it,
    and so has k = L / 2, which has no second half.
    """
    apart = torch.arange(length, dtype=torch.float64)[:, None] - torch.arange(length, dtype=torch.float64)
    waves = range(min(LOWEST, length // 2 + 1))
    parts = [torch.cos(2 * math.pi * k * apart / length) * (1 if 2 * k in (0, length) else 2) for k in waves]
    return (sum(parts, start=torch.zeros_like(apart)) / length).to(torch.get_default_dtype())
