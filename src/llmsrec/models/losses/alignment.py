"""The losses of A-LLMRec's stage 1, which brings items' collaborative and textual codes together (Kim et al., 2024).

Each is the sum of a term for the positives and one for the negatives of a batch. Against the published code, scores are
summed dot products, as the paper writes them, where the code takes the mean over dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # of the positives and of the negatives of a batch


def matching(items: Pair, texts: Pair) -> Tensor:
    """Mean squared error of item codes `[B, k]` against text codes `[B, k]`."""
    return F.mse_loss(items[0], texts[0]) + F.mse_loss(items[1], texts[1])


def reconstruction(decoded: Pair, originals: Pair) -> Tensor:
    """Mean squared error of decoded vectors `[B, d]` against what was encoded, which has no gradient from here."""
    return F.mse_loss(decoded[0], originals[0].detach()) + F.mse_loss(decoded[1], originals[1].detach())


def recommendation(users: Tensor, decoded: Pair) -> Tensor:
    """Binary cross-entropy of the scores of decoded item vectors `[B, d]`: a positive is chosen, a negative is not.

    Args:
        users: `[B, d]` the sequential recommender's user vectors.
    """
    positive, negative = ((users * items).sum(dim=1) for items in decoded)
    chosen, not_chosen = torch.ones_like(positive), torch.zeros_like(negative)
    loss = F.binary_cross_entropy_with_logits
    return loss(positive, chosen) + loss(negative, not_chosen)
