"""A transformer's block, as SASRec and BERT4Rec have them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmsrec.models.cf.teacher import drop

POST = {"pre": False, "post": True}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
FORBIDDEN = torch.finfo(torch.float32).min  # finite: with -inf a row without allowed keys would be NaN


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each with a LayerNorm and beside a residual path.

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
