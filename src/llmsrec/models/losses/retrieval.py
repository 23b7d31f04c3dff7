"""The losses of LLM-SRec (paper, Eq. 1-4 and 10)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieval(scores: Tensor) -> Tensor:
    """Next item retrieval (Eq. 1).

    Args:
        scores: `[B, C]`, s(u, k) of each user's candidates; column 0 is the positive, -inf is no candidate. No
            temperature, no norms.
    """
    return -F.log_softmax(scores, dim=1)[:, 0].mean()


def log_excess(share: Tensor, others: int, uniform: int, items: int) -> Tensor:
    """How much likelier items are in a pool of candidates than by its uniform draws alone, as a logarithm.

    A pool is the set of `uniform` items drawn uniformly and of the positives of `others` targets. Subtracted from the
    scores, it gives each item, over many batches, the weight in the softmax's sum that it has among uniform draws (the
    logQ correction of sampled softmax: Bengio & Senecal, 2008; Yi et al., 2019).

    Args:
        share: `[n]` each item's share of all targets.
        others: positives in the pool besides a target's own.
        uniform: uniform draws in the pool, one or more.
        items: I, which they are drawn from.

    Returns:
        `[n]`, 0 for an item that is never a target.
    """
    drawn = 1 - (1 - 1 / items) ** uniform
    return torch.log1p((1 - drawn) * (1 - (1 - share) ** others) / drawn)


def distill_mse(cf_user: Tensor, user: Tensor, normalize: bool) -> Tensor:
    """Distillation (Eq. 2): mean squared error of `[B, d']` against `[B, d']`, over batch and dimensions.

    Args:
        cf_user: f_CF-user(O_u).
        user: f_user(h_u).
        normalize: project both sides on the unit sphere first (reference implementation; the paper does not).
    """
    if normalize:
        cf_user, user = F.normalize(cf_user, dim=1), F.normalize(user, dim=1)
    return F.mse_loss(user, cf_user)


def distill_contrastive(cf_user: Tensor, user: Tensor, normalize: bool) -> Tensor:
    """Contrastive distillation (Eq. 10): each user's own f_CF-user(O_u) against those of the batch; shapes as above."""
    if normalize:
        cf_user, user = F.normalize(cf_user, dim=1), F.normalize(user, dim=1)
    return -F.log_softmax(user @ cf_user.T, dim=1).diagonal().mean()


def uniform(vectors: Tensor, users: Tensor) -> Tensor:
    """One term of Eq. 3: the mean over pairs of different users of exp(-2 ||x - y||^2), on the unit sphere.

    Args:
        vectors: `[B, d']`, projected on the sphere here, as the paper's text says and the implementation does.
        users: `[B]` ids; a user may have several vectors (of several histories), which are no pair.

    Returns:
        A scalar in (0, 1]; 0 where there is no pair.
    """
    pairs = torch.triu(users[:, None] != users, diagonal=1)
    if not pairs.any():
        return vectors.new_zeros(())
    unit = F.normalize(vectors, dim=1)
    squared = (2 - 2 * (unit @ unit.T)).clamp(min=0)
    return torch.exp(-2 * squared[pairs]).mean()
