"""What user vectors look like: how far apart they are, and how much a shuffled history turns them."""

import numpy as np

DISTANCE_USERS = 10_000  # at most so many enter `mean_distance`
ROWS = 1_024


def mean_distance(vectors: np.ndarray, seed: int) -> tuple[float, int] | None:
    """Mean Euclidean distance over all pairs of users (paper, Table 13).

    Exact up to `DISTANCE_USERS` users, from a seeded sample of so many beyond that; in blocks of `ROWS` rows.

    Args:
        vectors: `[n, d]`.
        seed: of the sample.

    Returns:
        The distance and the number of users behind it; None for fewer than two users.
    """
    if len(vectors) > DISTANCE_USERS:
        vectors = vectors[np.random.default_rng(seed).choice(len(vectors), DISTANCE_USERS, replace=False)]
    count = len(vectors)
    if count < 2:
        return None
    vectors = vectors.astype(np.float64)
    vectors = vectors - vectors.mean(axis=0)  # |a|^2 + |b|^2 - 2ab cancels less near the origin
    squares = (vectors**2).sum(axis=1)
    total = 0.0
    for start in range(0, count, ROWS):
        block = slice(start, start + ROWS)
        square = squares[block, None] + squares[start:] - 2 * vectors[block] @ vectors[start:].T
        distance = np.sqrt(np.maximum(square, 0))
        total += np.triu(distance, k=1).sum()
    return float(total / (count * (count - 1) / 2)), count


def mean_cosine(vectors: np.ndarray, others: np.ndarray) -> float | None:
    """Mean cosine similarity of `[n, d]` vectors, row by row (original against shuffled: paper, Sec. 2.3.3).

    A pair with a zero vector counts as 0; None for no rows.
    """
    if len(vectors) == 0:
        return None
    vectors, others = vectors.astype(np.float64), others.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    products = (vectors * others).sum(axis=1)
    return float(np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0).mean())
