"""Overlap@k against sorting each user's items."""

import numpy as np
import pytest

from llmsrec.evaluation import overlap as module
from llmsrec.evaluation.overlap import overlap


def made(seed=0, users=30, items=50):
    random = np.random.default_rng(seed)
    seen = [random.choice(items, 5, replace=False) + 1 for _ in range(users)]
    vectors = [random.normal(size=(size, 6)).astype(np.float32) for size in (users, users, items + 1)]
    return *vectors, np.arange(users + 1) * 5, np.concatenate(seen)


def slow(ours, theirs, items, offsets, seen, k):
    shares = []
    for row in range(len(ours)):
        own = set(seen[offsets[row] : offsets[row + 1]])
        tops = [
            set(sorted(set(range(1, len(items))) - own, key=lambda i: -(user[row].astype(float) @ items[i]))[:k])
            for user in (ours, theirs)
        ]
        shares.append(len(tops[0] & tops[1]) / k)
    return shares


@pytest.mark.parametrize("k", [1, 10])
def test_agrees_with_sorting_and_chunks_change_nothing(k, monkeypatch):
    actual = overlap(*made(), k=k)
    assert actual.tolist() == slow(*made(), k=k)
    assert 0 < actual.mean() < 0.5
    monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 50 * 7)  # seven users at a time
    assert overlap(*made(), k=k).tolist() == actual.tolist()


def test_the_same_vectors_overlap_wholly_also_in_a_short_catalogue():
    ours, _, items, offsets, seen = made()
    assert overlap(ours, ours, items, offsets, seen).tolist() == [1.0] * 30
    few = overlap(ours, -ours, items[:9], np.arange(31), np.tile([3], 30))  # 7 items are left for a top 10
    assert few.tolist() == [1.0] * 30
