"""Full and sampled ranks of 20,000 users x 12,000 items, beside a loop over users. Run by hand:

    python -m benchmarks.evaluation            # the size above, d 128
    python -m benchmarks.evaluation --users 5000 --items 3000

The loop scores one user at a time and is timed on its first users, then extrapolated; both must give the same ranks.
"""

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from llmsrec.evaluation.ranks import rank

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--loop-users", type=int, default=1_000, help="users that the loop is timed on")
    chosen = parser.parse_args()
    given = problem(chosen.users, chosen.items, chosen.dim)
    few = min(chosen.loop_users, chosen.users)

    before = peak()
    ours, found = timed(lambda: rank(**given))
    after = peak()
    loop, expected = timed(lambda: plain(few, **given))
    loop = [seconds * chosen.users / few for seconds in loop]
    same = np.mean([(found[protocol][:few] == expected[protocol]).mean() for protocol in expected])

    print(f"{chosen.users:,} users x {chosen.items:,} items, d {chosen.dim}, full and uni99; {machine()}")
    print(f"{'':<28}{'seconds':>9}{'min':>8}{'max':>8}{'users/s':>10}")
    for name, seconds in (("rank", ours), (f"loop, from {few:,} users", loop)):
        middle = statistics.median(seconds)
        print(f"{name:<28}{middle:>9.2f}{min(seconds):>8.2f}{max(seconds):>8.2f}{chosen.users / middle:>10,.0f}")
    print(f"median of {REPEATS}; the loop takes {statistics.median(loop) / statistics.median(ours):.1f} times as long")
    print(f"equal ranks {same:.4%}; peak memory {after:,.0f} MB, of which the data {before:,.0f} MB")


def problem(users: int, items: int, dim: int) -> dict[str, np.ndarray]:
    """Random vectors, targets, histories of 4 to 20 items and 99 negatives, as `rank` takes them."""
    random = np.random.default_rng(0)
    lengths = random.integers(4, 21, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return {
        "user_vectors": random.standard_normal((users, dim), dtype=np.float32),
        "item_vectors": random.standard_normal((items + 1, dim), dtype=np.float32),
        "targets": random.integers(1, items + 1, users),
        "history_offsets": offsets,
        "history_items": random.integers(1, items + 1, offsets[-1]),
        "negatives": random.integers(1, items + 1, (users, 99)),
    }


def plain(
    count: int,
    user_vectors: np.ndarray,
    item_vectors: np.ndarray,
    targets: np.ndarray,
    history_offsets: np.ndarray,
    history_items: np.ndarray,
    negatives: np.ndarray,
) -> dict[str, np.ndarray]:
    """The loop: score all items for a user, leave out what is not eligible, count what beats the target."""
    full, sampled = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    for user in range(count):
        scores, target = item_vectors @ user_vectors[user], targets[user]
        others = negatives[user][negatives[user] != target]
        sampled[user] = (scores[others] >= scores[target]).sum()
        eligible = np.ones(len(scores), dtype=bool)
        eligible[history_items[history_offsets[user] : history_offsets[user + 1]]] = False
        eligible[[0, target]] = False
        full[user] = (scores[eligible] >= scores[target]).sum()
    return {"full": full, "uni99": sampled}


def timed(call: Callable[[], dict[str, np.ndarray]]) -> tuple[list[float], dict[str, np.ndarray]]:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return seconds, result


def peak() -> float:
    """The process's largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def machine() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, numpy {np.__version__}"


if __name__ == "__main__":
    main()
