"""Groups of users whose metrics are told apart: warm and cold targets, transition and non-transition users."""

import numpy as np

from llmsrec.data.sequences import Sequences

WARM_COLD_PERCENT = 35  # of the items, at each end (paper, Sec. 4.1.3)
TRANSITION_PERCENT = 50  # of the users (paper, footnote 3)


def of_test(interactions: Sequences, train: Sequences, users: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """All groups of the users of test: `warm` and `cold`, `transition` and `non_transition`.

    Args:
        interactions: all events, in true order.
        train: the training events, of the same users.
        users, targets: `[n]` of test.
    """
    counts = np.bincount(train.items, minlength=int(interactions.items.max(initial=0)) + 1)
    trained_on = interactions.first(train.lengths()).of_users(users)  # in true order
    return warm_cold(targets, counts) | transition(trained_on.offsets[1:], trained_on.items)


def warm_cold(targets: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Users whose target is among the items with the most, or the fewest, training interactions.

    Items with equally many interactions are ordered by item id, the smaller first, so the groups are always the same
    and never larger than 35 % of the items.

    Args:
        targets: `[n]` item ids, 1..I.
        counts: `[I + 1]` training interactions of each item; that of item 0, padding, is not read.

    Returns:
        `{"warm": [n] bool, "cold": [n] bool}`; targets in between are in neither.
    """
    order = np.argsort(-counts[1:].astype(np.int64), kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    size = len(order) * WARM_COLD_PERCENT // 100
    place = place[targets - 1]
    return {"warm": place < size, "cold": place >= len(order) - size}


def transition_scores(offsets: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The t-score of each row of a CSR: how common its steps from one item to the next are (paper, footnote 3).

    t-score = mean over a row's consecutive pairs of Count(i_t -> i_t+1), the number of times that the pair occurs in
    all rows. A row without a pair scores 0.

    Args:
        offsets: `[n + 1]`; row r holds `items[offsets[r]:offsets[r + 1]]`, in order.
        items: `[N]` item ids.

    Returns:
        `[n]` float64.
    """
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    items = items[offsets[0] : offsets[-1]].astype(np.int64)
    within = rows[1:] == rows[:-1]
    pairs = (items[:-1] * (items.max(initial=0) + 1) + items[1:])[within]
    _, kind, count = np.unique(pairs, return_inverse=True, return_counts=True)
    owner = rows[1:][within]
    sums = np.bincount(owner, weights=count[kind], minlength=len(offsets) - 1)
    return sums / np.maximum(np.bincount(owner, minlength=len(offsets) - 1), 1)


def transition(offsets: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
    """The half of the rows with the highest t-scores, and the other half; equal scores are ordered by row.

    Where most pairs occur once, many rows tie at a t-score of 1 and the rows' order draws the line between them.

    Returns:
        `{"transition": [n] bool, "non_transition": [n] bool}`; together they are all rows, the odd one in the second.
    """
    scores = transition_scores(offsets, items)
    top = np.zeros(len(scores), dtype=bool)
    top[np.argsort(-scores, kind="stable")[: len(scores) * TRANSITION_PERCENT // 100]] = True
    return {"transition": top, "non_transition": ~top}
