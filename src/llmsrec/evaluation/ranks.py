"""The rank of each user's target among the items, under both protocols, in one pass over exact scores."""

import numpy as np

from llmsrec.errors import DataError

CHUNK_BYTES = 16 * 2**20  # of scores held at a time
FLOAT64_BITS = 53


def rank(
    user_vectors: np.ndarray,
    item_vectors: np.ndarray,
    targets: np.ndarray,
    history_offsets: np.ndarray,
    history_items: np.ndarray,
    negatives: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Rank each target by the scores `user_vectors @ item_vectors.T`.

    A rank is the number of other eligible items that score at least as high as the target, so 0 is best and ties count
    against the model. Eligible are: in `full`, all items outside the user's own history; in `uni99`, the user's stored
    negatives. The target is ranked even if its item is in the history.

    The scores are those of the vectors rounded to integers (`_integers`), whose products float64 sums without error:
    in a plain product the last bits of a score depend on where in a batch its row stands, and items with equal vectors
    may not tie. So a user's ranks are the same alone, in any subset, on any number of threads.

    Memory beyond the arguments: both sets of vectors in float64 and about 1.2 times `CHUNK_BYTES` (one row of scores
    where that is more).

    Args:
        user_vectors: `[n, d]`, the users to rank for; whatever numpy takes, CPU tensors included.
        item_vectors: `[I + 1, d]`; row 0 is padding and never read.
        targets: `[n]` item ids, 1..I.
        history_offsets: `[n + 1]`; user row r excludes `history_items[history_offsets[r]:history_offsets[r + 1]]`.
        history_items: `[N]` item ids, 1..I.
        negatives: `[n, m]` item ids, 1..I, or None.

    Returns:
        `{"full": [n] int32}`, and `"uni99": [n] int32` if there are negatives.

    Raises:
        DataError: shapes that do not belong together, an item id outside 1..I, a vector that is not finite.
    """
    users, items = np.asarray(user_vectors), np.asarray(item_vectors)[1:]
    targets, offsets, history = np.asarray(targets), np.asarray(history_offsets), np.asarray(history_items)
    others = np.zeros((len(users), 0), dtype=np.int64) if negatives is None else np.asarray(negatives)
    _check_vectors(users, items)
    _check_ids(len(users), len(items), targets, offsets, history, others)

    users = _integers(users, np.abs(users).max(axis=1, initial=0, keepdims=True))
    items = _integers(items, np.abs(items).max(initial=0))
    full, sampled = np.empty(len(users), dtype=np.int32), np.empty(len(users), dtype=np.int32)
    rows = max(1, CHUNK_BYTES // (8 * max(1, len(items))))
    for start in range(0, len(users), rows):
        window = slice(start, min(start + rows, len(users)))
        scores = users[window] @ items.T
        target = targets[window, None]
        score = np.take_along_axis(scores, target - 1, axis=1)

        beaten = np.take_along_axis(scores, others[window] - 1, axis=1) >= score
        sampled[window] = np.count_nonzero(beaten & (others[window] != target), axis=1)

        # NaN marks what is not eligible: no comparison with it holds
        owner = np.repeat(np.arange(len(scores)), np.diff(offsets[start : window.stop + 1]))
        scores[owner, history[offsets[start] : offsets[window.stop]] - 1] = np.nan
        np.put_along_axis(scores, target - 1, np.nan, axis=1)
        full[window] = np.count_nonzero(scores >= score, axis=1)
    return {"full": full} if negatives is None else {"full": full, "uni99": sampled}


def select(offsets: np.ndarray, items: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The histories of some rows of a CSR (`Sequences.offsets`, `.items`; `rows` are user ids), as a CSR of their own.

    Returns:
        `[len(rows) + 1]` offsets and the items, as `rank` takes them.
    """
    lengths = offsets[rows + 1] - offsets[rows]
    chosen = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return chosen, items[np.repeat(offsets[rows] - chosen[:-1], lengths) + np.arange(chosen[-1])]


def _integers(vectors: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """`vectors` times a power of two, rounded to integers of so many bits that a dot product of two is exact.

    With b bits a side, a sum of d products stays within d * 2^(2b) <= 2^53: 23 bits at d = 128, about what float32
    holds. The factor is one per user (`largest` per row), which no ranking sees, and one for all items.
    """
    dim = vectors.shape[1]
    bits = (FLOAT64_BITS - max(dim - 1, 0).bit_length()) // 2
    exponent = np.frexp(np.asarray(largest, dtype=np.float64))[1]
    return np.rint(np.ldexp(vectors.astype(np.float64), bits - exponent))


def _check_vectors(users: np.ndarray, items: np.ndarray) -> None:
    if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1]:
        raise DataError(
            f"user vectors of shape {users.shape} and item vectors of shape {items.shape} have no common width; "
            "train the model again on this data (`dvc repro`)."
        )
    for name, vectors in (("user", users), ("item", items)):
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{np.count_nonzero(~finite)} of {len(finite)} {name} vectors hold NaN or infinity, so scores would be "
                "NaN: training diverged; lower its learning rate (`train.lr` or `sasrec.lr`) and run it again."
            )


def _check_ids(
    users: int, items: int, targets: np.ndarray, offsets: np.ndarray, history: np.ndarray, others: np.ndarray
) -> None:
    """Refuse what numpy would broadcast, or index from the end, without a word."""
    for name, count in (("targets", len(targets)), ("histories", len(offsets) - 1), ("negatives", len(others))):
        if count != users:
            raise DataError(f"{count} {name} for {users} users; run the split and what follows again (`dvc repro`).")
    for name, ids in (("targets", targets), ("histories", history), ("negatives", others)):
        if ids.size and not (ids.min() >= 1 and ids.max() <= items):
            raise DataError(
                f"{name} hold item ids {ids.min()} to {ids.max()}, but there are vectors for 1 to {items}: "
                "the model was trained on other data; run `dvc repro`."
            )
