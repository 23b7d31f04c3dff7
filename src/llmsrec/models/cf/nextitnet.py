"""NextItNet: causal convolutions with growing holes read the history (Yuan et al., "A Simple Convolutional Generative
Network for Next Item Recommendation", 2019).

Its residual block (b). The table of items is both input and output, and an item has a bias; first values, the factor
sqrt(dim) and the normalised user vector are as in `gru4rec`, for the same reason.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmsrec.models.cf.teacher import Teacher, drop, with_one

KERNEL = 3
FIRST_GAIN = 0.1


class Convolution(nn.Module):
    """A causal convolution of kernel 3, then LayerNorm and ReLU.

    Position i reads the positions i, i - dilation and i - 2 dilation; before the first item there are zeros. It is
    written as a matrix product over the three side by side, which a CPU does faster than `nn.Conv1d`.
    """

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.weights = nn.Linear(KERNEL * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, dim]` to the same."""
        length, reach = x.shape[1], (KERNEL - 1) * self.dilation
        longer = F.pad(x, (0, 0, reach, 0))
        parts = [longer[:, start : start + length] for start in range(0, reach + 1, self.dilation)]  # oldest first
        return F.relu(self.norm(self.weights(torch.cat(parts, dim=-1))))


class Block(nn.Module):
    """Two convolutions beside a residual path, the second with twice the dilation."""

    def __init__(self, dim: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first = Convolution(dim, dilation)
        self.second = Convolution(dim, 2 * dilation)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """`x` `[B, L, dim]` to the same. At padding `real` `[B, L, 1]` is False; it is read as 0."""
        added = self.second(self.first(x * real) * real)
        return x + drop(added, self.dropout if self.training else 0.0)


class NextItNet(Teacher):
    """See `Teacher`.

    Args:
        items: the number of items I; their ids are 1..I.
        dim: the width of an item's vector and of all layers; with the item's bias d = dim + 1.
        dilations: of each residual block's first convolution, its second has twice as much: together a block adds
            6 times its dilation to how many items back the network sees.
        max_length: the longest history.
        dropout: on the items' vectors and on what a block adds, while training.
    """

    system = "nextitnet"

    def __init__(self, items: int, dim: int, dilations: list[int], max_length: int, dropout: float) -> None:
        super().__init__()
        self.config = {
            "items": items,
            "dim": dim,
            "dilations": dilations,
            "max_length": max_length,
            "dropout": dropout,
        }
        self.max_length = max_length
        self.dropout = dropout
        self.item = nn.Embedding(items + 1, dim + 1, padding_idx=0)
        self.blocks = nn.ModuleList(Block(dim, dilation, dropout) for dilation in dilations)
        self.output = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def first_values(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """So that the user's vector is at first like the last item's; an item's bias is 0.

        The ReLU at a block's end adds above 0 alone: at full size six blocks drown the item's own vector at first, and
        what is learnt is popularity (docs/experiments.md). So blocks begin with a tenth of their weight.
        """
        super().first_values(name, parameter, generator)
        if parameter is self.item.weight:
            parameter[:, -1] = 0
        elif name == "output.weight":
            nn.init.eye_(parameter)
        elif parameter.dim() == 2:
            parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        elif name.endswith("second.norm.weight"):
            parameter.fill_(FIRST_GAIN)

    def forward(self, items: Tensor) -> Tensor:
        """See `Teacher.forward`."""
        real = (items != 0)[..., None]
        x = self.item(items)[..., :-1] * math.sqrt(self.output.out_features)
        x = drop(x, self.dropout if self.training else 0.0)
        for block in self.blocks:
            x = block(x, real)
        return with_one(self.norm(self.output(x)))
