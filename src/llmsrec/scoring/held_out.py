"""How a version ranks what test users of other data took next, as it would have answered them."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from llmsrec.evaluation import ranks as ranking
from llmsrec.progress import Progress
from llmsrec.scoring.batches import batches
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.index import RECALLED
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.towers import History, Tower, item_vectors

MISS = np.iinfo(np.int32).max  # the rank of an item that is not in the catalogue: beyond every k


@dataclass(frozen=True)
class HeldOut:
    """Ranks of test users' targets, and how much of the users' data the version knows.

    Attributes:
        ranks: protocol -> `[n]` int32, 0-based, `MISS` for a target that the version does not know.
        unknown_targets: so many users' targets are no items of the catalogue.
        events, unknown_events: of all histories together, and how many of them are of unknown items.
        popular: users of whom no item is known; they are ranked by popularity, as they would be answered.
        recall: where an index answers, the mean share of the exact ten best items that it finds; else None.
    """

    ranks: dict[str, np.ndarray]
    unknown_targets: int
    events: int
    unknown_events: int
    popular: int
    recall: float | None = None


def rank(bundle: Bundle, users: pl.DataFrame, tower: str) -> HeldOut:
    """Rank each user's target by a tower of `bundle`.

    `full`: among all items of the bundle's own catalogue that it would recommend: not those of the user's history,
    unless it was trained with data.repeats `keep`; ties count against the
    version. A target that the catalogue does not have is a miss (`MISS`), and unknown items of a history are skipped
    as they are when a request is answered; a history with none left is ranked by popularity. `uni99`, if there are
    `negatives`: among the user's own stored negatives; those that the catalogue does not have cannot beat the target,
    as the version cannot recommend them.

    So a catalogue that is older has fewer items to confuse the target with, and misses all targets that are new.

    Args:
        users: rows as `evaluation.test_users.of_data` gives them, perhaps with `negatives` (equally long lists of
            parent_asins).

    Raises:
        DataError: the backbone cannot be loaded.
        RequestError: the tower cannot be asked here.
    """
    recommender = Recommender(bundle)
    reader = recommender.tower(tower)
    ids = {asin: number for number, asin in enumerate(bundle.items["parent_asin"], start=1)}
    histories = users.select("history", "timestamps").iter_rows()
    read = [recommender.history(asins, times) for asins, times in histories]
    targets = np.array([ids.get(asin, 0) for asin in users["target"]], dtype=np.int64)
    negatives = _negatives(users, ids, targets) if "negatives" in users.columns else None
    known = np.array([len(history.items) > 0 for history in read], dtype=bool)

    protocols = ("full",) if negatives is None else ("full", "uni99")
    ranks = {protocol: np.full(len(read), MISS, dtype=np.int32) for protocol in protocols}
    by_tower, by_count = np.flatnonzero(known & (targets > 0)), np.flatnonzero(~known & (targets > 0))
    counts = np.concatenate([[0], bundle.items["count"].to_numpy()])[:, None].astype(np.float64)
    vectors = _vectors([read[row] for row in by_tower], reader, len(bundle.items), len(read))
    for rows, of_users, of_items in (
        (by_tower, vectors, item_vectors(bundle, tower)),
        (by_count, np.ones((len(by_count), 1)), counts),
    ):
        if not len(rows):
            continue
        excluded = [recommender.excluded(read[row]) + 1 for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(items) for items in excluded])])
        seen = np.concatenate(excluded)
        others = None if negatives is None else negatives[rows]
        for name, of in ranking.rank(of_users, of_items, targets[rows], offsets, seen, others).items():
            ranks[name][rows] = of
    return HeldOut(
        ranks=ranks,
        unknown_targets=int((targets == 0).sum()),
        events=sum(len(history.items) + len(history.unknown) for history in read),
        unknown_events=sum(len(history.unknown) for history in read),
        popular=int((~known).sum()),
        recall=recommender.recall(tower, vectors, RECALLED) if len(vectors) else None,
    )


def _vectors(read: list[History], tower: Tower, catalogue: int, users: int) -> np.ndarray:
    """`[n, d]` user vectors of the histories, in their order; how far it is, of all `users`, is printed."""
    vectors: list[np.ndarray] = [np.empty(0)] * len(read)
    with Progress(users, users - len(read)) as progress:
        for batch in batches(read, tower, catalogue):
            for place, vector in zip(batch, tower.vectors([read[place] for place in batch]), strict=True):
                vectors[place] = vector
            progress.add(len(batch))
    return np.stack(vectors) if vectors else np.empty((0, 1))


def _negatives(users: pl.DataFrame, ids: dict[str, int], targets: np.ndarray) -> np.ndarray:
    """`[n, m]` item ids; the target's own, which never counts, stands for an item that is not in the catalogue."""
    table = np.array([[ids.get(asin, 0) for asin in row] for row in users["negatives"]], dtype=np.int64)
    return np.where(table == 0, targets[:, None], table)
