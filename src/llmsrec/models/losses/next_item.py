"""What SASRec learns from: at every real position, tell the next item from others.

All losses are means over N positions. `users` `[N, d]` are the vectors at these positions, without padding;
`targets` `[N]` the items that came next; `items` `[I + 1, d]` the item vectors, row 0 for padding, never a target nor a
negative. The score of an item is its dot product with the user vector.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 4 * 2**20  # of scores held at a time, about a core's share of cache; for many items, 64 positions
COLLISION = torch.finfo(torch.float32).min


def bce(users: Tensor, targets: Tensor, negatives: Tensor, items: Tensor) -> Tensor:
    """Binary cross-entropy of the target against one negative a position, `negatives` `[N]` (SASRec, Sec. 3.5)."""
    # one look-up: its gradient is a whole table
    positive, negative = (users * F.embedding(torch.stack([targets, negatives]), items)).sum(-1)
    return -(F.logsigmoid(positive) + F.logsigmoid(-negative)).mean()


def cross_entropy(users: Tensor, targets: Tensor, items: Tensor, smoothing: float = 0.0) -> Tensor:
    """Softmax cross-entropy over all I items; holds `CHUNK_BYTES` of scores at a time, never `[N, I]`.

    With `smoothing` s > 0 the target has 1 - s of the weight, and all items share s evenly (Szegedy et al., "Rethinking
    the Inception Architecture", 2016, Sec. 7).
    """
    return _FullCrossEntropy.apply(users, targets, items, smoothing)


def sampled_softmax(users: Tensor, targets: Tensor, negatives: Tensor, items: Tensor) -> Tensor:
    """Softmax cross-entropy of the target against K negatives that all positions share, `negatives` `[K]`.

    Where a negative is the position's own target, it does not count there.
    """
    positive = (users * F.embedding(targets, items)).sum(-1, keepdim=True)
    negative = _shared_scores(users, targets, negatives, items)
    return (torch.cat([positive, negative], dim=1).logsumexp(dim=1) - positive[:, 0]).mean()


def gbce(users: Tensor, targets: Tensor, negatives: Tensor, items: Tensor, t: float) -> Tensor:
    """Generalised binary cross-entropy with K shared negatives (Petrov & Macdonald, "gSASRec", 2023, Eq. 10-12).

    The target's probability is raised to the power beta, which undoes what sampling does to it: not at all at t = 0
    (beta = 1: plain binary cross-entropy), in full at t = 1 (beta = the share of items that is sampled).
    Where a negative is the position's own target, it does not count there.

    A logit is the score plus log(beta / K), where a target and its negatives pull equally hard. From logits of 0 the
    negatives, K / beta times as strong, first push all items one way; as the items' vectors are the model's input too,
    all histories then look alike, and what it learns is popularity (docs/experiments.md). A constant for all items
    changes no ranking. It is the prior of a detector's last bias (Lin et al., "Focal Loss", 2017, Sec. 3.3).
    """
    share = min(1.0, len(negatives) / (len(items) - 2))
    beta = share * (t * (1 - 1 / share) + 1 / share)
    start = math.log(beta / len(negatives))
    positive = (users * F.embedding(targets, items)).sum(-1) + start
    negative = _shared_scores(users, targets, negatives, items) + start
    total = beta * F.logsigmoid(positive) + F.logsigmoid(-negative).sum(1)
    return -(total / (len(negatives) + 1)).mean()


def draw_shared(items: int, count: int, generator: torch.Generator) -> Tensor:
    """`[count]` item ids, uniform over 1..items, with replacement, on the generator's device."""
    return torch.randint(1, items + 1, (count,), generator=generator, device=generator.device)


def draw_unseen(own: Tensor, items: int, count: int, generator: torch.Generator) -> Tensor:
    """`[B, count]` item ids, each uniform over the items in 1..items that row b of `own` `[B, M]` (0 = none) lacks.

    Draws the rank r among the items a row lacks and skips those that it holds: below its j-th own item s_j (ascending,
    from 0) lie s_j - 1 - j others, so r moves up by one for each j with s_j - 1 - j < r. A row that holds every item
    gets any.
    """
    own = own.sort(dim=1).values
    repeated = F.pad(own[:, 1:] == own[:, :-1], (1, 0))
    own = own.masked_fill((own == 0) | repeated, 2 * items + 2).sort(dim=1).values  # out of reach, behind the others
    others = items - (own <= items).sum(dim=1, keepdim=True)
    uniform = torch.rand(len(own), count, generator=generator, device=own.device, dtype=torch.float64)
    rank = 1 + (uniform * others.clamp(min=1)).long()
    below = own - 1 - torch.arange(own.shape[1], device=own.device)
    return (rank + torch.searchsorted(below, rank)).clamp(max=items)


def _shared_scores(users: Tensor, targets: Tensor, negatives: Tensor, items: Tensor) -> Tensor:
    """`[N, K]` scores of the shared negatives, the finite minimum where a negative is the position's target."""
    scores = users @ F.embedding(negatives, items).T
    return scores.masked_fill(negatives == targets[:, None], COLLISION)


class _FullCrossEntropy(Function):
    """Loss and both gradients in one pass over chunks of positions, each while its scores are in cache.

    Scores lie item by position, `[I, n]`: on a CPU the matrix products are a quarter faster that way. The softmax is
    never divided out: with e = exp(scores - max) and z = sum(e), the gradients are (e / z) W - W[target] and its
    counterpart, where 1 / z scales rows of the small factor instead of the large one. Smoothing moves a share of
    W[target] to the items' mean, of which it needs no scores.
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, targets: Tensor, items: Tensor, smoothing: float) -> Tensor:
        table = items[1:]
        loss = users.new_zeros(())
        user_gradient, item_gradient = torch.empty_like(users), torch.zeros_like(items)
        rows = max(64, CHUNK_BYTES // (table.element_size() * len(table)) // 32 * 32)
        for start in range(0, len(users), rows):
            window = slice(start, start + rows)
            scores = table @ users[window].T
            loss -= scores.gather(0, targets[None, window] - 1).sum() * (1 - smoothing)
            highest = scores.amax(dim=0)
            scores.sub_(highest).exp_()
            total = scores.sum(dim=0)
            loss += (total.log() + highest).sum()
            user_gradient[window] = (scores.T @ table).div_(total[:, None])
            item_gradient[1:].addmm_(scores, users[window] / total[:, None])
        user_gradient.sub_(F.embedding(targets, items), alpha=1 - smoothing)
        item_gradient.index_add_(0, targets, users, alpha=smoothing - 1)
        if smoothing:
            mean, everyone = table.mean(dim=0), users.sum(dim=0)
            loss -= smoothing * (mean @ everyone)
            user_gradient.sub_(mean, alpha=smoothing)
            item_gradient[1:].sub_(everyone, alpha=smoothing / len(table))
        user_gradient.div_(len(users))
        item_gradient.div_(len(users))
        ctx.save_for_backward(user_gradient, item_gradient)
        return loss / len(users)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        user_gradient, item_gradient = ctx.saved_tensors
        return user_gradient * gradient, None, item_gradient * gradient, None
