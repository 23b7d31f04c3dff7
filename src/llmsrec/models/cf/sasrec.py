"""SASRec, the collaborative-filtering sequence recommender (CF-SRec) that teaches LLM-SRec (paper, Sec. 3.1).

A causal transformer over the items of a history (Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018),
in its pre-norm form, or in BERT's post-norm form with a filter beside the attention (Shin et al., "An Attentive
Inductive Bias for Sequential Recommendation beyond the Self-Attention", 2024: BSARec). The score of an item for a user
is the dot product of their vectors.
"""

import math
from collections.abc import Callable
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
LOWEST = 3  # frequencies that the filter calls low: the mean and the two slowest waves (BSARec's c = 5, for all data)
POST = {"pre": False, "post": True}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
FORBIDDEN = torch.finfo(torch.float32).min  # finite: with -inf a row without allowed keys would be NaN


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each with a LayerNorm and beside a residual path.

    `norm` is where the LayerNorms are: `pre`, before each layer, or `post`, after each residual sum. With `low_pass`
    w > 0 (post-norm only) a filter stands beside the attention, and the two are mixed w : 1 - w (BSARec, Eq. 10).
    """

    def __init__(
        self, dim: int, heads: int, dropout: float, norm: str, feed_forward: int, activation: str, low_pass: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.post = POST[norm]
        self.activation = ACTIVATIONS[activation]
        self.low_pass = low_pass
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, feed_forward * dim)
        self.outer = nn.Linear(feed_forward * dim, dim)
        if low_pass:
            self.high_frequencies = nn.Parameter(torch.ones(dim))
            self.filter_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, real: Tensor, mask: Tensor, smooth: Tensor) -> Tensor:
        """One layer's vectors to the next one's, of the last Q positions: those that `mask` and `smooth` have rows for.

        Args:
            x: `[B, L, d]`.
            real: `[B, L, 1]`, 1 where there is an item and 0 elsewhere.
            mask: `[B, 1, Q, L]`, added to the attention scores.
            smooth: `[Q, L]`, rows of `low_pass_matrix`.

        Returns:
            `[B, Q, d]`.
        """
        rate = self.dropout if self.training else 0.0
        own = x[:, -mask.shape[2] :]
        if not self.post:
            own = own + drop(self._attend(self.attention_norm(x), mask, rate), rate)
            hidden = drop(self.activation(self.inner(self.feed_forward_norm(own))), rate)
            return own + drop(self.outer(hidden), rate)
        mixed = self.attention_norm(own + drop(self._attend(x, mask, rate), rate))
        if self.low_pass:
            low = smooth @ (x * real)
            filtered = low + self.high_frequencies.square() * (own - low)
            mixed = torch.lerp(mixed, self.filter_norm(own + drop(filtered, rate)), self.low_pass)
        hidden = self.activation(self.inner(mixed))
        return self.feed_forward_norm(mixed + drop(self.outer(hidden), rate))

    def _attend(self, x: Tensor, mask: Tensor, rate: float) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self._project(x, mask.shape[2])
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.output(attended.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor, queries: int) -> tuple[Tensor, ...]:
        """Queries `[B, Q, d]` of the last positions, keys and values `[B, L, d]` of all."""
        if queries == x.shape[1]:
            return self.query_key_value(x).chunk(3, dim=-1)
        weight, bias, dim = self.query_key_value.weight, self.query_key_value.bias, x.shape[-1]
        key, value = F.linear(x, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        return F.linear(x[:, -queries:], weight[:dim], bias[:dim]), key, value


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
        norm: `pre` or `post`; with `post` the embeddings have a LayerNorm instead of the factor sqrt(d), and there is
            none at the end, as in BERT.
        feed_forward: the inner width of the feed-forward layers, as a multiple of d.
        activation: theirs, `relu` or `gelu`.
        low_pass: the weight of the filter beside the attention, 0 for none; needs `post`. It mixes all positions, so
            that earlier vectors know of later items: `last` alone may then be trained.
    """

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

    def initialise(self, generator: torch.Generator) -> "SASRec":
        """Draw all weights anew from `generator` alone; the padding item's vector and the biases are 0."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, INIT_STD, generator=generator)
                elif name.endswith("high_frequencies"):
                    parameter.normal_(generator=generator)
                elif name.endswith("bias"):
                    parameter.zero_()
            self.item.weight[0] = 0
        return self

    def forward(self, items: Tensor) -> Tensor:
        """`items` `[B, L]` int64, L up to `max_length` -> `[B, L, d]`; at padded positions the values mean nothing."""
        return self._encode(items, last=False)

    def last(self, items: Tensor) -> Tensor:
        """The user vectors `[B, d]` of histories `[B, L]`; an empty history has one too, the same at any length."""
        return self(items)[:, -1]

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
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} holds no usable SASRec ({error}); delete the folder and run `dvc repro sasrec`."
        ) from error
    return model.eval()
