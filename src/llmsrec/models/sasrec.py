"""SASRec, the collaborative-filtering sequence recommender (CF-SRec) that teaches LLM-SRec (paper, Sec. 3.1).

A causal transformer over the items of a history (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018),
in its pre-norm form. The score of an item for a user is the dot product of their vectors.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.files import atomic, read_json, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
INIT_STD = 0.02
FORBIDDEN = torch.finfo(torch.float32).min  # finite: with -inf a row without allowed keys would be NaN


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each behind a LayerNorm and beside a residual path."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` `[B, L, d]`, `mask` `[B, 1, L, L]` added to the attention scores -> `[B, L, d]`"""
        rate = self.dropout if self.training else 0.0
        x = x + drop(self._attend(self.attention_norm(x), mask, rate), rate)
        hidden = drop(F.relu(self.inner(self.feed_forward_norm(x))), rate)
        return x + drop(self.outer(hidden), rate)

    def _attend(self, x: Tensor, mask: Tensor, rate: float) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.query_key_value(x).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.output(attended.transpose(1, 2).flatten(2))


class SASRec(nn.Module):
    """Item ids of a history in, a vector at each of its positions out.

    Histories are right-aligned: padded with 0 on the left, the latest item last (`Sequences.last`). Positions count
    from the end and padded keys are masked, so a history's vectors do not depend on how much padding it has.

    Args:
        items: the number of items I; their ids are 1..I.
        dim: the width d of all vectors.
        blocks: transformer blocks.
        heads: attention heads a block.
        max_length: the longest history; what is longer loses its oldest items before it comes here.
        dropout: on embeddings, attention weights and both sublayers, while training.
    """

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
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position = nn.Embedding(max_length, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def initialise(self, generator: torch.Generator) -> "SASRec":
        """Draw all weights anew from `generator` alone; the padding item's vector and the biases are 0."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, INIT_STD, generator=generator)
                elif name.endswith("bias"):
                    parameter.zero_()
            self.item.weight[0] = 0
        return self

    def forward(self, items: Tensor) -> Tensor:
        """`items` `[B, L]` int64, L up to `max_length` -> `[B, L, d]`; at padded positions the values mean nothing."""
        length = items.shape[1]
        positions = torch.arange(length - 1, -1, -1, device=items.device)
        x = self.item(items) * math.sqrt(self.item.embedding_dim) + self.position(positions)
        x = drop(x, self.dropout if self.training else 0.0)
        mask = attention_mask(items)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def last(self, items: Tensor) -> Tensor:
        """The user vectors `[B, d]` of histories `[B, L]`; an empty history has one too, the same at any length."""
        return self(items)[:, -1]

    def item_vectors(self) -> Tensor:
        """`[I + 1, d]`; row 0 is padding."""
        return self.item.weight

    @torch.no_grad()
    def user_vectors(self, sequences: Sequences, batch_size: int = 512) -> Tensor:
        """`[U + 1, d]`: each user's vector after the last `max_length` events, without dropout.

        Row 0 is the vector of an empty history. Users of like lengths share a batch, so that little is padded; the
        result does not depend on the batches. Several processes share the batches; each returns all vectors.
        """
        was_training = self.training
        self.eval()
        device = self.item.weight.device
        histories = sequences.last(self.max_length)
        lengths = np.clip(sequences.lengths(), 1, self.max_length)
        vectors = torch.zeros(len(histories), self.item.embedding_dim, device=device)
        order = np.argsort(lengths, kind="stable")
        for start in range(distributed.rank() * batch_size, len(order), distributed.size() * batch_size):
            users = order[start : start + batch_size]
            batch = torch.from_numpy(histories[users, -lengths[users[-1]] :])
            vectors[torch.from_numpy(users)] = self.last(batch.to(device))
        self.train(was_training)
        return distributed.add_up(vectors)


def drop(x: Tensor, rate: float) -> Tensor:
    """Dropout by uniform draws: on a CPU they take a third of the time of `F.dropout`'s Bernoulli draws."""
    if rate == 0:
        return x
    return x * torch.rand_like(x).ge_(rate).div_(1 - rate)


def attention_mask(items: Tensor) -> Tensor:
    """`[B, 1, L, L]` to add to attention scores: 0 where a query (dim 2) sees a key (dim 3), else the finite minimum.

    Seen are the real items up to the query's own. A padded query sees itself alone, so that no row is empty.
    """
    length = items.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=items.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=items.device)
    allowed = (causal & (items != 0)[:, None, None, :]) | itself
    return torch.where(allowed, 0.0, FORBIDDEN)


def save(model: SASRec, folder: Path) -> None:
    """Write the weights and the shape to `folder`.

    Raises:
        DataError: a file cannot be written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    write_json(folder / CONFIG, model.config)


def load(folder: Path) -> SASRec:
    """Read what `save` wrote, in evaluation mode.

    Raises:
        DataError: a file is missing or damaged, or the two do not belong together.
    """
    config, path = read_json(folder / CONFIG), folder / WEIGHTS
    if not path.exists():
        raise DataError(f"{path} is not there; run the stage that writes it (`dvc repro`).")
    try:
        model = SASRec(**config)
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} holds no usable SASRec ({error}); delete the folder and run `dvc repro sasrec`."
        ) from error
    return model.eval()
