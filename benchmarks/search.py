"""The ten best of a million items: by the product with all of them, and by the index, in one run.

    python -m benchmarks.search                     # items grown from models/bundle, users of data/filtered
    python -m benchmarks.search --random            # 128 normal numbers for each item and user: no structure at all

An item of the grown catalogue is one of the bundle's, moved by noise of half the size, and of the covariance, of what
lies between an item and its nearest other. Users are real: what the tower `cf` makes of their histories. Half of them
choose how many cells the index reads, and the other half are asked, each with twenty items that are left out.

Beside the time that a search takes stands the processor's, which a busy machine changes less.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from llmsrec.data.sequences import Sequences
from llmsrec.export import index as making
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.search import Exact, Search
from llmsrec.serving.towers import ITEMS

K, LEFT_OUT, BATCH, FEW = 10, 20, 32, 60
TOWER, WIDTH = "cf", 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--filtered", type=Path, default=Path("data/filtered"))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1_000, help="half of them are asked")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    chosen = parser.parse_args()
    random = np.random.default_rng(0)
    if chosen.random:
        rows, users = (random.standard_normal((n, WIDTH), dtype=np.float32) for n in (chosen.items, chosen.users))
    else:
        vectors, users = real(chosen.bundle, chosen.filtered, chosen.users)
        rows = grown(vectors, chosen.items, random)
    asked, exclude = users[1::2], random.integers(0, len(rows), (len(users[1::2]), LEFT_OUT))
    everything = Exact(np.ascontiguousarray(rows.T), np.zeros(len(rows), dtype=bool))

    before, start = common.peak(), time.perf_counter()
    index = making.build(rows, np.ones(len(rows), dtype=bool))
    built, peak = time.perf_counter() - start, common.peak()
    making.widen(index, [users[::2]])
    widened = time.perf_counter() - start - built
    with tempfile.TemporaryDirectory() as folder:
        size = written(index.cells, Path(folder) / "index.faiss")

    retrieved = [best for best, _ in index.best(asked, K, list(exclude))]
    truth = [best for best, _ in everything.best(asked[:FEW], K, list(exclude[:FEW]))]
    recall = float(np.mean([np.isin(right, best).mean() for right, best in zip(truth, retrieved, strict=False)]))
    every = index.recall(asked, index.truth(asked, K))
    figures = {
        **one_by_one("all items", everything, asked[:FEW], exclude),
        **one_by_one("index", index, asked, exclude),
        "all items, batches of 32, a second": [together(everything, asked[:BATCH], exclude)],
        "index, batches of 32, a second": [together(index, asked[:BATCH], exclude)],
        "index, two threads, a second": [two_threads(index, asked, exclude)],
    }
    kind = "random" if chosen.random else f"grown from {chosen.bundle}"
    print(f"{len(rows):,} items x {rows.shape[1]}, {kind}; {len(asked)} users, k {K}; {common.machine()}")
    common.show(figures)
    print(f"recall@{K} {every:.4f} of {len(asked)} users; {recall:.4f} of {len(truth)} with {LEFT_OUT} items left out")
    print(
        f"{index.cells.nlist:,} cells, {index.cells.nprobe} read; built in {built:.1f} s, their number chosen in "
        f"{widened:.1f} s; file {size:,.0f} MB, vectors {rows.nbytes / 2**20:,.0f} MB, peak of the build "
        f"{peak - before:,.0f} MB more than before"
    )
    common.write(chosen.json, {**figures, "recall": every, "build s": built, "file MB": size})


def real(folder: Path, filtered: Path, users: int) -> tuple[np.ndarray, np.ndarray]:
    """`[I, d']` item vectors of a bundle and `[users, d']` vectors of its users, drawn by seed."""
    bundle = Bundle.open(folder)
    recommender = Recommender(bundle)
    asins = bundle.items["parent_asin"].to_list()
    events = Sequences.read(filtered / "interactions.parquet").drop_last(1)
    drawn = 1 + np.random.default_rng(0).permutation(events.users)[:users]
    histories = []
    for user in drawn:
        items, times = events.of(int(user))
        histories.append(recommender.history([asins[item - 1] for item in items], times.tolist()))
    vectors = [recommender.tower(TOWER).vectors(histories[n : n + BATCH]) for n in range(0, len(histories), BATCH)]
    rows = bundle.tensors[ITEMS[TOWER]][1:]
    return rows, np.concatenate(vectors)


def grown(vectors: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`[count, d]` items that lie as some do."""
    products = vectors @ vectors.T
    lengths = np.diag(products)
    distances = lengths[:, None] + lengths - 2 * products
    np.fill_diagonal(distances, np.inf)
    between = vectors - vectors[distances.argmin(axis=1)]
    values, directions = np.linalg.eigh(between.T @ between / len(between))
    spread = (directions * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    rows = vectors[random.integers(0, len(vectors), count)]
    for part in np.array_split(np.arange(count), 1 + count // 100_000):
        noise = random.standard_normal((len(part), vectors.shape[1]), dtype=np.float32)
        rows[part] += noise @ spread.T / 2
    return rows


def written(cells: Any, path: Path) -> float:
    """MB of the file."""
    import faiss

    faiss.write_index(cells, str(path))
    return path.stat().st_size / 2**20


def one_by_one(name: str, search: Search, users: np.ndarray, exclude: np.ndarray) -> dict[str, list[float]]:
    """How many searches a second on one thread, and ms of one at p50 and p99."""
    search.best(users[:1], K, [exclude[0]])
    times, processor = [], []
    for vector, out in zip(users, exclude, strict=False):
        start, of_thread = time.perf_counter(), time.thread_time()
        search.best(vector[None], K, [out])
        times.append(time.perf_counter() - start)
        processor.append(time.thread_time() - of_thread)
    figures = {f"{name}, a second": [1 / float(np.mean(times))]}
    for what, seconds in (("", times), (" of the processor", processor)):
        p50, p99 = (1000 * np.quantile(seconds, [0.5, 0.99])).tolist()
        figures |= {f"{name}, p50 ms{what}": [p50], f"{name}, p99 ms{what}": [p99]}
    return figures


def together(search: Search, users: np.ndarray, exclude: np.ndarray) -> float:
    """Searches a second in one batch."""
    return len(users) / common.timed(lambda: search.best(users, K, list(exclude[: len(users)])))


def two_threads(search: Search, users: np.ndarray, exclude: np.ndarray) -> float:
    """Searches a second, one by one, in two threads."""

    def ask(places: Iterable[int]) -> None:
        for place in places:
            search.best(users[place : place + 1], K, [exclude[place]])

    with ThreadPoolExecutor(2) as pool:
        halves = [range(half, len(users), 2) for half in (0, 1)]
        return len(users) / common.timed(lambda: list(pool.map(ask, halves)))


if __name__ == "__main__":
    main()
