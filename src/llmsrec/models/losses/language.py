"""The language-model loss on the title of the next item (paper, Eq. 5)."""

import torch.nn.functional as F
from torch import Tensor


def title(logits: Tensor, tokens: Tensor) -> Tensor:
    """-ln p of the titles' tokens, as a mean over all of them, the one that ends each title among them.

    Eq. 5 adds them up, which differs by a factor. The prompt's tokens, candidates included, are no part of it.

    Args:
        logits: `[P, V]`, before each token of the titles of a batch.
        tokens: `[P]` these tokens.
    """
    return F.cross_entropy(logits.float(), tokens)
