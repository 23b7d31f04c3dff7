"""Items by the angle between their vectors: which are near one another, and lists whose items are not all alike."""

import numpy as np

LEAST = 1e-12  # length of a vector; a zero vector has no direction, and is near nothing
POOL, SMALLEST_POOL = 10, 100  # a diverse list of k is chosen from the 10 k best items, or from 100


class Directions:
    """The directions of a catalogue's vectors.

    Args:
        vectors: `[d, I]` float32.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self._lengths = np.maximum(np.sqrt(np.einsum("di,di->i", vectors, vectors)), LEAST)

    def of(self, indices: np.ndarray) -> np.ndarray:
        """`[n, d]` vectors of length 1 of some items."""
        return (self._vectors[:, indices] / self._lengths[indices]).T

    def cosines(self, vector: np.ndarray) -> np.ndarray:
        """`[I]` cosines between a vector `[d]` and the items'."""
        return (vector / max(float(np.linalg.norm(vector)), LEAST)) @ self._vectors / self._lengths

    def nearest(self, items: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each of `[n]` items the one of `[m]` others that is nearest to it, and their cosines; both `[n]`."""
        cosines = self.of(items) @ self.of(among).T
        places = cosines.argmax(axis=1)
        return among[places], cosines[np.arange(len(items)), places]


def diverse(scores: np.ndarray, directions: np.ndarray, k: int, diversity: float) -> np.ndarray:
    """A list by maximal marginal relevance (Carbonell & Goldstein 1998), chosen one by one.

    The next is always the one with the largest (1 - diversity) * relevance - diversity * similarity, where relevance is
    its score between the lowest (0) and the highest (1) of all, and similarity its largest cosine with one that was
    chosen before.

    Args:
        scores: `[P]`, best first.
        directions: `[P, d]` vectors of length 1.
        diversity: 0 (the `k` best) to 1.

    Returns:
        `[min(k, P)]` places in the order chosen; of equals the first.
    """
    span = float(scores[0] - scores[-1]) if len(scores) else 0.0
    relevance = (scores - scores[-1:]) / (span or 1.0)
    similarity = np.zeros(len(scores))
    chosen = np.zeros(min(k, len(scores)), dtype=np.int64)
    for number in range(len(chosen)):
        if number:
            cosines = directions @ directions[chosen[number - 1]]
            similarity = cosines if number == 1 else np.maximum(similarity, cosines)
        gain = (1 - diversity) * relevance - diversity * similarity
        gain[chosen[:number]] = -np.inf
        chosen[number] = gain.argmax()
    return chosen
