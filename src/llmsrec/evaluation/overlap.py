"""How alike two towers recommend: the share of one top k that is also in the other."""

import numpy as np

CHUNK_BYTES = 16 * 2**20  # of scores held at a time


def overlap(
    ours: np.ndarray,
    theirs: np.ndarray,
    item_vectors: np.ndarray,
    history_offsets: np.ndarray,
    history_items: np.ndarray,
    k: int = 10,
) -> np.ndarray:
    """Overlap@k of two sets of user vectors over the same item vectors; items of the user's history do not count.

    Args:
        ours, theirs: `[n, d]`, row by row the same users.
        item_vectors: `[I + 1, d]`; row 0 is padding and never read.
        history_offsets, history_items: a CSR of item ids, as `ranks.rank` takes it.

    Returns:
        `[n]` float64 in 0..1: common items of both top k, divided by k (by the eligible items where they are fewer).
    """
    items = item_vectors[1:].astype(np.float64).T
    shares = np.empty(len(ours))
    rows = max(1, CHUNK_BYTES // (8 * max(1, items.shape[1])))
    for start in range(0, len(ours), rows):
        window = slice(start, min(start + rows, len(ours)))
        seen = history_items[history_offsets[start] : history_offsets[window.stop]] - 1
        lengths = history_offsets[start + 1 : window.stop + 1] - history_offsets[start : window.stop]
        owner = np.repeat(np.arange(len(lengths)), lengths)
        tops = [_top(vectors[window].astype(np.float64) @ items, owner, seen, k) for vectors in (ours, theirs)]
        shares[window] = (tops[0] & tops[1]).sum(axis=1) / np.maximum(1, tops[0].sum(axis=1))
    return shares


def without_history(ours: np.ndarray, theirs: np.ndarray, item_vectors: np.ndarray) -> np.ndarray:
    """`overlap` of `[n, d]` vectors of which all items count."""
    nothing = np.zeros(len(ours) + 1, dtype=np.int64)
    return overlap(ours, theirs, item_vectors, nothing, nothing[:0])


def _top(scores: np.ndarray, owner: np.ndarray, seen: np.ndarray, k: int) -> np.ndarray:
    """`[n, I]` bool: each row's k highest of the items that it has not seen."""
    scores[owner, seen] = -np.inf
    chosen = np.zeros(scores.shape, dtype=bool)
    best = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen & np.isfinite(scores)
