"""How often a model that recommends by title chooses right: by its likelihoods of 20 titles, and by what it writes."""

import numpy as np

WRONG = 19  # the rank of a positive that was not written: behind all others


def ranks(scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`[n]` int32, 0-based: how many other candidates score at least as high as the positive, so ties count against it.

    Args:
        scores: `[n, C]`.
        places: `[n]` where the positive is.
    """
    positive = np.take_along_axis(scores, places[:, None], axis=1)
    return ((scores >= positive).sum(axis=1) - 1).astype(np.int32)


def chosen(texts: list[str], titles: list[list[str]]) -> np.ndarray:
    """`[n]` which candidate each text names, or -1: the one whose title it equals, if it equals exactly one.

    Equal, not contained: of two titles of which one begins with the other, a text can name either.

    Args:
        texts: `[n]` what was written, `normalised`.
        titles: `[n, C]` the candidates' titles as they were shown, `normalised`.
    """
    named = [[k for k, title in enumerate(row) if title == text] for text, row in zip(texts, titles, strict=True)]
    return np.array([row[0] if len(row) == 1 else -1 for row in named], dtype=np.int64)


def ranks_of_chosen(which: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`[n]` int32: 0 where the positive was chosen, else `WRONG`, so that HR@1 counts all users."""
    return np.where(which == places, 0, WRONG).astype(np.int32)
