"""Ranks against a slow loop in Python's exact fractions, on hand-made scores, and in any batch."""

from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmsrec.errors import DataError
from llmsrec.evaluation import ranks
from llmsrec.evaluation.ranks import rank, select


def slow(users, items, targets, histories, negatives):
    """Score by score, without rounding."""
    full, uni99 = [], []
    for user, target, history, others in zip(users.tolist(), targets, histories, negatives, strict=True):
        score = [sum(Fraction(a) * Fraction(b) for a, b in zip(user, item, strict=True)) for item in items.tolist()]
        eligible = [i for i in range(1, len(items)) if i not in history and i != target]
        full.append(sum(score[i] >= score[target] for i in eligible))
        uni99.append(sum(score[i] >= score[target] for i in others if i != target))
    return {"full": full, "uni99": uni99}


def csr(histories):
    lengths = [len(history) for history in histories]
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.array(list(chain(*histories)), dtype=np.int32)


def problem(seed, users=70, items=40, dim=128):
    """Random users, items (some of them twice), targets, histories and negatives."""
    random = np.random.default_rng(seed)
    item_vectors = random.standard_normal((items + 1, dim)).astype(np.float32)
    item_vectors[items // 2 + 1 :] = item_vectors[1 : items - items // 2 + 1]
    return {
        "user_vectors": random.standard_normal((users, dim)).astype(np.float32),
        "item_vectors": item_vectors,
        "targets": random.integers(1, items + 1, users),
        "histories": [list(random.choice(items, random.integers(0, 9), replace=False) + 1) for _ in range(users)],
        "negatives": random.integers(1, items + 1, (users, 12)),
    }


def ranked(user_vectors, item_vectors, targets, histories, negatives):
    return rank(user_vectors, item_vectors, targets, *csr(histories), negatives)


def test_hand_made():
    items = np.array([[9.0], [5.0], [4.0], [4.0], [3.0], [2.0]])  # row 0 is padding, and would win
    users = np.array([[1.0], [1.0], [-1.0], [0.0]])
    actual = ranked(
        users, items, np.array([4, 2, 4, 1]), [[1], [], [5], [2, 3]], np.array([[1, 5], [3, 5], [1, 5], [2, 3]])
    )
    # user 0: 2 and 3 beat 4, item 1 is history; user 1: 1 beats 2, and 3 ties; user 2: signs turned, 5 is history;
    # user 3: all zero, so everything eligible ties: 4 and 5
    assert actual["full"].tolist() == [2, 2, 0, 2]
    assert actual["uni99"].tolist() == [1, 1, 1, 2]
    assert actual["full"].dtype == actual["uni99"].dtype == np.int32


def test_full_alone_without_negatives():
    actual = rank(
        np.ones((1, 1)), np.arange(4.0)[:, None], np.array([1]), np.array([0, 0]), np.array([], dtype=np.int32)
    )
    assert list(actual) == ["full"] and actual["full"].tolist() == [2]


def test_the_target_is_ranked_even_if_it_is_in_the_history():
    items = np.array([[0.0], [3.0], [2.0], [1.0]])
    actual = ranked(np.ones((1, 1)), items, np.array([2]), [[2, 3, 3]], np.array([[2, 1]]))
    assert actual["full"].tolist() == [1] and actual["uni99"].tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_agrees_with_the_slow_loop(data):
    users, items, dim = (data.draw(st.integers(1, high)) for high in (5, 8, 3))
    numbers = st.integers(-3, 3).map(lambda n: n / 2)  # coarse, so that ties are common
    ids = st.integers(1, items)
    given_ = {
        "user_vectors": data.draw(arrays.arrays(np.float32, (users, dim), elements=numbers)),
        "item_vectors": data.draw(arrays.arrays(np.float32, (items + 1, dim), elements=numbers)),
        "targets": np.array(data.draw(st.lists(ids, min_size=users, max_size=users))),
        "histories": data.draw(st.lists(st.lists(ids, max_size=4), min_size=users, max_size=users)),
        "negatives": data.draw(arrays.arrays(np.int32, (users, 3), elements=ids)),
    }
    expected = slow(*given_.values())
    assert {name: actual.tolist() for name, actual in ranked(**given_).items()} == expected


def test_agrees_with_the_slow_loop_on_ordinary_vectors():
    given_ = problem(0, users=20, items=30, dim=16)
    expected = slow(*given_.values())
    assert {name: actual.tolist() for name, actual in ranked(**given_).items()} == expected


@pytest.mark.parametrize("dim", [1, 16, 64, 128, 130])
def test_a_user_has_the_same_ranks_alone_and_in_any_subset(dim, monkeypatch):
    given_ = problem(dim, users=70, items=960, dim=dim)
    together = ranked(**given_)
    random = np.random.default_rng(1)
    for rows in ([3], [69], random.permutation(70)[:33], np.arange(70)[::-1]):
        chosen = {
            name: value if name == "item_vectors" else [value[r] for r in rows] if name == "histories" else value[rows]
            for name, value in given_.items()
        }
        for protocol, actual in ranked(**chosen).items():
            assert actual.tolist() == together[protocol][rows].tolist()
    monkeypatch.setattr(ranks, "CHUNK_BYTES", 8 * 960 * 7)  # seven rows at a time
    for protocol, actual in ranked(**given_).items():
        assert actual.tolist() == together[protocol].tolist()


@pytest.mark.parametrize("dim", [8, 100, 128])
def test_items_with_equal_vectors_tie_wherever_they_stand(dim):
    random = np.random.default_rng(dim)
    items = np.tile(random.standard_normal(dim).astype(np.float32), (961, 1))
    users = random.standard_normal((50, dim)).astype(np.float32)
    actual = rank(users, items, np.arange(1, 51) * 19, np.zeros(51, dtype=np.int64), np.array([], dtype=np.int32))
    assert (actual["full"] == 959).all()


@pytest.mark.parametrize("dim", [1, 2, 3, 128, 129])
def test_scores_are_summed_without_error(dim):
    """Large entries of one sign: the sums come as near to 2^53 as they can."""
    random = np.random.default_rng(dim)
    users, items = (ranks._integers(random.uniform(0.9, 1, (20, dim)), np.ones(())) for _ in range(2))
    exact = [[sum(int(a) * int(b) for a, b in zip(u, i, strict=True)) for i in items] for u in users]
    assert [[int(score) for score in row] for row in users @ items.T] == exact
    assert np.abs(users / np.abs(users).max()).min() > 0.89  # and they are not all zero


def test_scale_of_a_user_and_tiny_or_huge_vectors_change_nothing():
    given_ = problem(5)
    expected = ranked(**given_)
    for scale in (1e-30, 7.0, 1e30):
        actual = ranked(**{**given_, "user_vectors": given_["user_vectors"].astype(np.float64) * scale})
        assert actual["full"].tolist() == expected["full"].tolist()


def test_no_users():
    actual = rank(np.zeros((0, 2)), np.zeros((4, 2)), np.array([], dtype=int), np.array([0]), np.array([], dtype=int))
    assert actual["full"].shape == (0,)


@pytest.mark.parametrize("name", ["user_vectors", "item_vectors"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_an_error(name, value):
    given_ = problem(2)
    given_[name][7, 3] = value
    with pytest.raises(DataError, match=rf"1 of \d+ {name[:4]} vectors hold NaN or infinity.*learning rate"):
        ranked(**given_)


def test_padding_may_hold_anything():
    given_ = problem(3)
    expected = ranked(**given_)["full"].tolist()
    given_["item_vectors"][0] = np.nan
    assert ranked(**given_)["full"].tolist() == expected


@pytest.mark.parametrize("name", ["targets", "negatives", "histories"])
@pytest.mark.parametrize("bad", [0, -1, 41])
def test_an_item_id_without_a_vector_is_an_error(name, bad):
    given_ = problem(4)
    if name == "histories":
        given_[name][0] = [bad]
    else:
        given_[name].flat[0] = bad
    with pytest.raises(DataError, match=rf"{name} hold item ids .*vectors for 1 to 40"):
        ranked(**given_)


@pytest.mark.parametrize("name", ["targets", "negatives", "histories"])
def test_lengths_that_differ_are_an_error(name):
    given_ = problem(4)
    given_[name] = given_[name][:-1]
    with pytest.raises(DataError, match=f"69 {name} for 70 users"):
        ranked(**given_)


def test_widths_that_differ_are_an_error():
    given_ = problem(4)
    with pytest.raises(DataError, match=r"\(70, 128\).*\(40, 127\).*no common width"):
        ranked(**{**given_, "item_vectors": given_["item_vectors"][:, 1:]})


def test_select_takes_the_histories_of_some_users():
    offsets, items = csr([[], [4, 5], [], [1, 2, 3]])  # users 0..3
    chosen, actual = select(offsets, items, np.array([3, 2, 1]))
    assert chosen.tolist() == [0, 3, 3, 5] and actual.tolist() == [1, 2, 3, 4, 5]
