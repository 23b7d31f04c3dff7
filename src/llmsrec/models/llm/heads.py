"""The small MLPs that join the language model and the sequential recommender.

The paper says "2-layer MLPs" (Eq. 2); norms, activations and initialisation are the reference implementation's, but for
`FIRST_SCORES` and `standardise`.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Scores are unscaled dot products of d' dimensions; at Xavier's size the first ones differ by several nats at random,
# which costs an epoch to unlearn (docs/experiments.md).
FIRST_SCORES = 0.3
WORDS = 4_096  # of the vocabulary, whose size says how f_I and f_U start


def output_heads(d_llm: int, d: int, settings: Any) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """f_user, f_item and f_CF-user, drawn in this order; `settings`: params.yaml's `model`."""
    width, d_prime = settings.head_hidden, settings.d_prime
    return f_llm(d_llm, width, d_prime), f_llm(d_llm, width, d_prime), f_cf_user(d, d_prime)


def f_llm(d_llm: int, hidden: int, d_prime: int) -> nn.Sequential:
    """f_user or f_item: `[B, d_llm]` hidden states to `[B, d']`."""
    layers = _mlp(d_llm, hidden, d_prime, nn.LeakyReLU())
    with torch.no_grad():
        layers[-1].weight.mul_(FIRST_SCORES)  # type: ignore[operator, union-attr]
    return layers


@torch.no_grad()
def standardise(head: nn.Sequential, hidden: Tensor) -> None:
    """Have a new f_user or f_item start as if each dimension of its input had mean 0 and deviation 1.

    A language model's hidden states share a large common part and differ in size by dimension; a head spends its first
    epochs on that (docs/experiments.md). The change is in the first layer's values alone.

    Args:
        head: as `f_llm` made it.
        hidden: `[n, d_llm]` hidden states of the kind that it will read.
    """
    first = head[0]
    deviation, mean = torch.std_mean(hidden, dim=0)
    first.weight.div_(deviation + 1e-6)  # type: ignore[operator, union-attr]
    first.bias.sub_(first.weight @ mean)  # type: ignore[operator, union-attr]


def f_cf_user(d: int, d_prime: int) -> nn.Sequential:
    """f_CF-user: `[B, d]` user vectors of the sequential recommender to `[B, d']`."""
    return _mlp(d, 2 * d, d_prime, nn.GELU())


def f_input(d: int, d_llm: int) -> nn.Sequential:
    """f_I or f_U: `[B, d]` vectors of the sequential recommender, or A-LLMRec's codes, to `[B, d_llm]` inputs of the
    language model.
    """
    return _mlp(d, d_llm, d_llm, nn.LeakyReLU())


@torch.no_grad()
def start_at_the_size_of_words(projection: nn.Sequential, vectors: Tensor, embedding: nn.Module) -> None:
    """Have a new f_I or f_U start with outputs as long, on average, as the language model's embeddings of words.

    At Xavier's values they are several times as long, so that the model's layers add little to them.

    Args:
        projection: as `f_input` made it.
        vectors: `[n, d]` what it will read.
        embedding: the model's input embeddings.
    """
    table: Any = embedding.weight
    words = embedding(torch.arange(len(table), device=table.device)[:WORDS]).float().norm(dim=1).mean()
    projection[-1].weight.mul_(words / projection(vectors).norm(dim=1).mean())  # type: ignore[operator, union-attr]


def _mlp(d_in: int, hidden: int, d_out: int, activation: nn.Module) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(d_in, hidden), nn.LayerNorm(hidden), activation, nn.Linear(hidden, d_out))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return layers
