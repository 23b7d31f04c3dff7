"""What a version knows of the users that it was trained on, to compare others with: reference.parquet in its bundle.

A row is a user of the training data, with the figures that `measure` finds for any history. Figures of users, not sums
over them, are kept: with them one can draw other users from the same data, and see how much a figure varies by chance.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import log_softmax

from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.evaluation.overlap import overlap
from llmsrec.files import atomic
from llmsrec.progress import Progress
from llmsrec.serving.bundle import Bundle, seal
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.runtime import runtime
from llmsrec.serving.towers import ITEMS, History

NAME = "reference.parquet"
BINS = 10
USERS, ASKED = 2000, 500  # users in the reference; of these the towers are asked for so many
BATCH = 32
COLUMNS = {
    "length": pl.Int64(),
    "unknown": pl.Int64(),
    "bins": pl.Array(pl.Int64(), BINS),
    "entropy_cf": pl.Float64(),
    "entropy_llm": pl.Float64(),
    "entropy_teacher": pl.Float64(),
    "overlap": pl.Float64(),
}


def add(folder: Path, sequences: Sequences) -> str:
    """Measure users of the training data, put the reference into a bundle and seal it anew.

    Args:
        folder: a bundle.
        sequences: whole histories, the items numbered as in the bundle.

    Returns:
        The bundle's digest.
    """
    bundle = Bundle.open(folder)
    users = np.random.default_rng(0).permutation(sequences.users)[:USERS] + 1
    events = [sequences.of(user) for user in users]
    histories = [History(items.astype(np.int64), times, unknown=[]) for items, times in events]
    with atomic(folder / NAME) as temporary:
        measure(bundle, histories, usable(bundle)).write_parquet(temporary)
    return seal(folder)


def read(bundle: Bundle) -> pl.DataFrame:
    """The reference of a bundle.

    Raises:
        DataError: it was exported before there was one.
    """
    path = bundle.folder / NAME
    if not path.exists():
        raise DataError(
            f"the bundle at {bundle.folder} holds no {NAME}: it was exported before bundles kept what to compare with; "
            "train or export that version again (`dvc repro`), and register it."
        )
    return pl.read_parquet(path)


def measure(bundle: Bundle, histories: Sequence[History], towers: Sequence[str], asked: int = ASKED) -> pl.DataFrame:
    """A row for each history, of `COLUMNS`.

    `length` counts a history's items and `unknown` those of them that the training did not have (distinct ones, or
    events where the model keeps repeats, but distinct unknown ones); `bins` counts the known ones by their popularity
    in training, see `bins_of`. For the first `asked` histories with a known item:
    `entropy_<tower>` is that of the softmax over the scores of these items, divided by that of equal scores, so 0..1;
    `overlap` is the share of one tower's ten best items that the other has, too. Null for the others, and for a tower
    that is not in `towers`.
    """
    known = [history for history in histories if len(history.items)][:asked]
    vectors = _vectors(bundle, known, [name for name in towers if name in usable(bundle)])
    counts, item_vectors = bundle.items["count"][: bundle.trained], bundle.tensors[ITEMS[bundle.towers[0]]]
    return rows(histories, counts.to_numpy(), vectors, item_vectors[: bundle.trained + 1], bundle.repeats)


def rows(
    histories: Sequence[History],
    counts: np.ndarray,
    vectors: dict[str, np.ndarray],
    item_vectors: np.ndarray,
    repeats: bool = False,
) -> pl.DataFrame:
    """`measure`, once the towers have answered.

    Args:
        counts: `[I]` events of each item in training.
        vectors: of each tower that was asked `[n, d']`, for the first n histories with a known item.
        item_vectors: `[I + 1, d']`; row 0 is padding.
        repeats: whether items of a history are recommended again.
    """
    bins = bins_of(counts)
    columns: dict[str, object] = {
        "length": [len(history.items) + len(history.unknown) for history in histories],
        "unknown": [len(history.unknown) for history in histories],
        "bins": np.array([np.bincount(bins[h.items - 1], minlength=BINS) for h in histories]).reshape(-1, BINS),
    }
    asked = max((len(answers) for answers in vectors.values()), default=0)
    places = [row for row, history in enumerate(histories) if len(history.items)][:asked]
    values = {f"entropy_{name}": _entropies(answers, item_vectors) for name, answers in vectors.items()}
    if len(vectors) == 2:
        excluded = [histories[row].items[: 0 if repeats else None] for row in places]
        offsets = np.concatenate([[0], np.cumsum([len(items) for items in excluded])]).astype(np.int64)
        seen = np.concatenate(excluded)
        values["overlap"] = overlap(vectors["cf"], vectors["llm"], item_vectors, offsets, seen)
    for name in (name for name, kind in COLUMNS.items() if kind.is_float()):
        column = np.full(len(histories), np.nan)
        column[places] = values.get(name, np.nan)
        columns[name] = column
    frame = pl.DataFrame(columns, schema=COLUMNS)
    return frame.with_columns(pl.selectors.float().fill_nan(None))


def bins_of(counts: np.ndarray) -> np.ndarray:
    """`[I]` the bin 0..9 of each item: the first holds the most popular ones, and each about a tenth of all events."""
    order = np.argsort(-counts, kind="stable")
    ends = np.cumsum(counts[order])
    bins = np.empty(len(counts), dtype=np.int64)
    bins[order] = np.minimum(BINS * (ends - counts[order] / 2) / max(1, ends[-1]), BINS - 1).astype(np.int64)
    return bins


def usable(bundle: Bundle) -> list[str]:
    """The towers whose scores mean something beside those of the first, as they are of the same item vectors."""
    return sorted(name for name in bundle.towers if ITEMS.get(name) == ITEMS[bundle.towers[0]])


def answering(bundle: Bundle) -> list[str]:
    """The towers of `usable` that can run here, see `serving.runtime`."""
    return [name for name in usable(bundle) if name != "llm" or runtime(bundle.folder)]


def _vectors(bundle: Bundle, histories: list[History], towers: Sequence[str]) -> dict[str, np.ndarray]:
    """`[n, d']` of each tower, asked in batches of histories of like length."""
    if not histories:
        return {}
    recommender = Recommender(bundle)
    order = np.argsort([len(history.items) for history in histories], kind="stable")
    vectors = {}
    for name in towers:
        tower, answers = recommender.tower(name), []
        with Progress(len(order), label=f"{name} for drift") as progress:
            for batch in np.split(order, range(BATCH, len(order), BATCH)):
                answers.append(tower.vectors([histories[row] for row in batch]))
                progress.add(len(batch))
        vectors[name] = np.concatenate(answers)[np.argsort(order)]
    return vectors


def _entropies(vectors: np.ndarray, item_vectors: np.ndarray) -> np.ndarray:
    """`[n]` entropy of the softmax over all items, divided by the largest that there can be."""
    logs = [log_softmax(item_vectors[1:] @ vector) for vector in vectors]
    return np.array([-(np.exp(log) * log).sum() / np.log(max(2, len(log))) for log in logs])
