"""The best items by an index, against scoring every item and sorting all of them."""

import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from llmsrec.errors import DataError
from llmsrec.export import index as making
from llmsrec.serving.index import Index

ITEMS, USERS, NOBODY = 4_000, 30, np.empty(0, dtype=np.int64)


def clustered(count: int, seed: int) -> np.ndarray:
    """`[count, 16]` around forty centres of unlike lengths, as trained vectors lie."""
    centres = 3 * np.random.default_rng(0).normal(size=(40, 16))
    random = np.random.default_rng(seed)
    return (centres[random.integers(0, 40, count)] + random.normal(size=(count, 16))).astype(np.float32)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return clustered(ITEMS, 1)


@pytest.fixture(scope="module")
def users() -> np.ndarray:
    return clustered(USERS, 2)


@pytest.fixture(scope="module")
def index(rows: np.ndarray, users: np.ndarray) -> Index:
    made = making.build(rows, np.ones(ITEMS, dtype=bool))
    making.widen(made, [clustered(200, 3)])
    return made


def slow(
    rows: np.ndarray, vector: np.ndarray, k: int, exclude: np.ndarray, last: np.ndarray | None = None
) -> list[int]:
    scores = rows @ vector
    last = np.zeros(len(rows), dtype=bool) if last is None else last
    return sorted(set(range(len(rows))) - {*exclude.tolist()}, key=lambda item: (last[item], -scores[item], item))[:k]


def test_what_is_found_is_scored_exactly_and_next_to_all_is_found(
    index: Index, rows: np.ndarray, users: np.ndarray
) -> None:
    assert 1 < index.cells.nprobe < index.cells.nlist, "it reads some of the cells"
    shares = []
    for vector, (best, scores) in zip(users, index.best(users, 10, [NOBODY] * USERS), strict=True):
        np.testing.assert_allclose(scores, rows[best] @ vector, rtol=1e-5, atol=1e-5)
        assert len(best) == 10 and (np.diff(scores) <= 0).all()
        shares.append(len({*best.tolist()} & {*slow(rows, vector, 10, NOBODY)}) / 10)
    assert np.mean(shares) >= 0.97, "made for .995, of more users"
    assert index.recall(users, index.truth(users, 10)) == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("left_out", ["a history", "a block list", "half of them", "all but some", "ids of others"])
def test_what_is_left_out_is_not_found_and_what_is_left_is(
    index: Index, rows: np.ndarray, users: np.ndarray, left_out: str
) -> None:
    random, shares = np.random.default_rng(4), []
    for vector in users[:20]:
        exclude = {
            "a history": np.array(slow(rows, vector, 8, NOBODY)),  # the very best of them
            "a block list": random.permutation(ITEMS)[:400],
            "half of them": np.flatnonzero(rows @ vector > np.median(rows @ vector)),
            "all but some": random.permutation(ITEMS)[:-30],
            "ids of others": np.array([ITEMS, ITEMS + 7, 3, 3]),
        }[left_out]
        ((best, scores),) = index.best(vector[None], 10, [exclude])
        assert len({*best.tolist()}) == 10 and not {*best.tolist()} & {*exclude.tolist()}
        np.testing.assert_allclose(scores, rows[best] @ vector, rtol=1e-5, atol=1e-5)
        shares.append(len({*best.tolist()} & {*slow(rows, vector, 10, exclude)}) / 10)
    assert np.mean(shares) >= (1.0 if left_out in ("half of them", "all but some") else 0.97)


def test_each_is_answered_as_alone_and_every_time_alike(index: Index, rows: np.ndarray, users: np.ndarray) -> None:
    exclude = [np.array([7 * n, 7 * n + 1]) for n in range(USERS)]
    together = index.best(users, 10, exclude)
    for vector, out, (best, scores) in zip(users, exclude, together, strict=True):
        ((alone, of_alone),) = index.best(vector[None], 10, [out])
        assert alone.tolist() == best.tolist() and of_alone.tolist() == scores.tolist()
    again = making.build(rows, np.ones(ITEMS, dtype=bool))
    again.cells.nprobe = index.cells.nprobe
    assert np.array_equal(faiss.serialize_index(again.cells), faiss.serialize_index(index.cells))


@pytest.mark.parametrize("k", [990, 1_200, ITEMS])
def test_more_than_cells_hold_are_those_of_all_items(index: Index, rows: np.ndarray, users: np.ndarray, k: int) -> None:
    """990 are looked for in cells, which a few of them do not hold."""
    index.cells.nprobe, before = 1, index.cells.nprobe
    ((best, _),) = index.best(users[:1], k, [NOBODY])
    index.cells.nprobe = before
    assert best.tolist() == slow(rows, users[0], k, NOBODY)


def test_an_item_without_a_title_comes_behind_all_others(rows: np.ndarray, users: np.ndarray) -> None:
    titled = np.arange(ITEMS) % 3 > 0
    index = making.build(rows, titled)
    making.widen(index, [users])
    for vector, (best, _) in zip(users[:5], index.best(users[:5], 10, [NOBODY] * 5), strict=True):
        assert titled[best].all() and len({*best.tolist()} & {*slow(rows, vector, 10, NOBODY, ~titled)}) >= 8
    ((best, _),) = index.best(users[:1], 15, [np.flatnonzero(titled)[10:]])  # ten are left that have one
    assert best.tolist() == slow(rows, users[0], 15, np.flatnonzero(titled)[10:], ~titled)


def test_added_items_are_found_in_the_cells_that_there_are(
    index: Index, rows: np.ndarray, users: np.ndarray, tmp_path: Path
) -> None:
    faiss.write_index(index.cells, str(tmp_path / "before.faiss"))
    longer = np.concatenate([rows, 2 * users[:5]])
    making.add(tmp_path / "before.faiss", tmp_path / "after.faiss", longer[ITEMS:], ITEMS)
    read = Index.read(tmp_path / "after.faiss", longer, np.zeros(len(longer), dtype=bool))
    assert (read.cells.nlist, read.cells.nprobe) == (index.cells.nlist, index.cells.nprobe)
    for number, (best, _) in enumerate(read.best(users[:5], 10, [NOBODY] * 5)):
        assert ITEMS + number in best


def test_a_file_that_is_no_index_of_these_vectors_is_one_line(
    index: Index, rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss.write_index(index.cells, str(tmp_path / "good.faiss"))
    with pytest.raises(DataError, match="is of 4,000 vectors of 16 numbers, and the bundle has 3,999 of 16; export"):
        Index.read(tmp_path / "good.faiss", rows[1:], np.zeros(ITEMS - 1, dtype=bool))
    (tmp_path / "bad.faiss").write_bytes((tmp_path / "good.faiss").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"bad\.faiss is not an index; export the model again"):
        Index.read(tmp_path / "bad.faiss", rows, np.zeros(ITEMS, dtype=bool))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DataError, match=r"and faiss, which reads it, is not installed here; `pip install faiss-cpu`"):
        Index.read(tmp_path / "good.faiss", rows, np.zeros(ITEMS, dtype=bool))
