"""CTRL: a recommender of item ids whose item vectors begin as their texts' vectors (paper, App. D).

Li et al., "CTRL: Connect Tabular and Language Model for CTR Prediction", 2023, align the two views of a sample by
contrast before they fine-tune; here that is an option (`Alignment`). Its backbone is SASRec.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.models.cf.teacher import INIT_STD, Teacher
from llmsrec.models.text.whitening import RANK, Whitening

TEMPERATURE = 0.07


def text_table(vectors: Tensor, dim: int, scale: float, generator: torch.Generator) -> Tensor:
    """First values of an item table from text vectors: their first principal components, each of the same variance.

    Of unequal variances the first component would be most of every vector: encoders' vectors lie in a narrow cone.
    Where texts have fewer components than `dim`, the rest of the columns is random.

    Args:
        vectors: `[I + 1, w]`, row 0 for padding (`engine.text_vectors`).
        dim: d.
        scale: the standard deviation of a column, as a multiple of random first values' (`INIT_STD`).

    Returns:
        `[I + 1, d]` float32; row 0 is zero.
    """
    components = Whitening.of(vectors)(vectors)[:, :dim]
    table = torch.randn(len(vectors), dim, generator=generator, dtype=torch.float64)
    table[:, : components.shape[1]] = components
    table[0] = 0
    return (table * INIT_STD * scale).float()


class Alignment(nn.Module):
    """SASRec's vector of a history beside the text of what came next, in a space of both.

    Args:
        backbone: is trained, too.
        vectors: `[I + 1, w]` text vectors, which stay as they are.
    """

    vectors: Tensor  # [I + 1, w], of unit variance a column

    def __init__(self, backbone: Teacher, vectors: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        dim = backbone.item.embedding_dim
        spread = vectors[1:].std(dim=0).clamp(min=RANK)
        self.backbone = backbone
        self.register_buffer("vectors", (vectors - vectors[1:].mean(dim=0)) / spread, persistent=False)
        self.of_history, self.of_text = nn.Linear(dim, dim), nn.Linear(vectors.shape[1], dim)
        with torch.no_grad():
            for layer in (self.of_history, self.of_text):
                layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()

    def forward(self, histories: Tensor, targets: Tensor) -> Tensor:
        """The loss of histories `[B, L]`, right-aligned, and the items `[B]` that came next. Processes share it."""

        def both(rows: np.ndarray) -> Tensor:
            own = torch.from_numpy(rows).to(targets.device)
            return torch.stack(self.views(self.backbone.last_only(histories[own]), self.vectors[targets[own]]), dim=1)

        users, texts = distributed.spread_rows(both, np.arange(len(targets))).unbind(dim=1)
        return contrast(users, texts, targets, TEMPERATURE)

    def views(self, users: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """SASRec's vectors `[n, d]` and rows of `vectors` `[m, w]` in the space of both, of length 1."""
        return F.normalize(self.of_history(users), dim=-1), F.normalize(self.of_text(texts), dim=-1)


def contrast(users: Tensor, texts: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE in the batch (CTRL, Eq. 2 to 4): each side's own partner among all others of the batch.

    Args:
        users, texts: `[B, d]` of length 1.
        targets: `[B]` items; two rows of one item are no negatives of each other.
    """
    scores = users @ texts.T / temperature
    same = (targets[:, None] == targets) & ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    scores = scores.masked_fill(same, torch.finfo(scores.dtype).min)
    own = torch.arange(len(targets), device=targets.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
