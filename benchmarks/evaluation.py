"""Full and sampled ranks of 20,000 users x 12,000 items, beside a loop over users.

    python -m benchmarks.evaluation            # the size above, d 128
    python -m benchmarks.evaluation --users 5000 --items 3000

The loop scores one user at a time and is timed on its first users, then extrapolated; both must give the same ranks.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks import common
from llmsrec.evaluation.ranks import rank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--loop-users", type=int, default=1_000, help="users that the loop is timed on")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    chosen = parser.parse_args()
    given = problem(chosen.users, chosen.items, chosen.dim)
    few = min(chosen.loop_users, chosen.users)

    before = common.peak()
    actual = rank(**given)
    after = common.peak()
    expected = plain(few, **given)
    ours, loop, share = "rank, s", f"loop, from {few:,} users, s", chosen.users / few
    figures = common.in_turn(
        {
            ours: lambda: common.timed(lambda: rank(**given)),
            loop: lambda: common.timed(lambda: plain(few, **given)) * share,
        }
    )
    figures["loop / rank"] = common.ratios(figures, loop, ours)
    same = np.mean([(actual[protocol][:few] == expected[protocol]).mean() for protocol in expected])

    print(f"{chosen.users:,} users x {chosen.items:,} items, d {chosen.dim}, full and uni99; {common.machine()}")
    common.show(figures)
    print(f"equal ranks {same:.4%}; peak memory {after:,.0f} MB, of which {before:,.0f} MB before")
    common.write(chosen.json, {**figures, "peak MB": after})


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


if __name__ == "__main__":
    main()
