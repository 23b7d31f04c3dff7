"""GRU4Rec: a recurrent network reads the history item by item (Hidasi et al., "Session-based Recommendations with
Recurrent Neural Networks", 2016; Hidasi & Karatzoglou, "Recurrent Neural Networks with Top-k Gains", 2018).

The authors' sessions are short and many; here a user's history is one session. The table of items is both input and
output, as in the authors' `constrained_embedding`, and an item has a bias. As in SASRec the items' vectors are
multiplied with sqrt(dim) where they come in, and the user's vector is normalised: else both are so small at first that
little is learnt (docs/experiments.md).
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from llmsrec.models.cf.teacher import Teacher, drop, with_one


class GRU4Rec(Teacher):
    """See `Teacher`.

    Args:
        items: the number of items I; their ids are 1..I.
        dim: the width of an item's vector, to which its bias is added as one more number: d = dim + 1.
        hidden: the width of the GRU's state.
        layers: GRU layers, one on the other.
        max_length: the longest history.
        embedding_dropout: on the items' vectors, while training.
        dropout: on the GRU's states, between layers too.
    """

    system = "gru4rec"

    def __init__(
        self, items: int, dim: int, hidden: int, layers: int, max_length: int, embedding_dropout: float, dropout: float
    ) -> None:
        super().__init__()
        self.config = {
            "items": items,
            "dim": dim,
            "hidden": hidden,
            "layers": layers,
            "max_length": max_length,
            "embedding_dropout": embedding_dropout,
            "dropout": dropout,
        }
        self.max_length = max_length
        self.embedding_dropout = embedding_dropout
        self.dropout = dropout
        self.item = nn.Embedding(items + 1, dim + 1, padding_idx=0)
        widths = [dim, *[hidden] * layers]
        self.layers = nn.ModuleList(nn.GRU(width, after, batch_first=True) for width, after in pairwise(widths))
        self.output = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)

    def first_values(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As torch's own but for the items: uniform up to 1 / sqrt(hidden). An item's bias is 0."""
        if name.startswith(("layers", "output")):
            bound = self.config["hidden"] ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            super().first_values(name, parameter, generator)
        if parameter is self.item.weight:
            parameter[:, -1] = 0

    def forward(self, items: Tensor) -> Tensor:
        """See `Teacher.forward`. The GRU starts at a history's first item: rows are turned until it stands in front."""
        padding = (items == 0).sum(dim=1, keepdim=True)
        places = torch.arange(items.shape[1], device=items.device)
        ahead, back = ((places + turn) % items.shape[1] for turn in (padding, -padding))
        training = self.training
        x = self.item(items.gather(1, ahead))[..., :-1] * math.sqrt(self.output.out_features)
        x = drop(x, self.embedding_dropout if training else 0.0)
        for layer in self.layers:
            x = drop(layer(x)[0], self.dropout if training else 0.0)
        x = x.gather(1, back[..., None].expand(-1, -1, x.shape[-1]))
        return with_one(self.norm(self.output(x * (items != 0)[..., None])))
