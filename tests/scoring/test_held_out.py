"""Ranks of held-out targets against the answers that the service would give."""

import numpy as np
import polars as pl
import pytest

from llmsrec.scoring import held_out
from llmsrec.scoring.held_out import MISS
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.recommender import Recommender
from llmsrec.serving.schema import Event, Request
from tests.registry.made import test_users_of as users_of


def plainly(recommender: Recommender, user: dict, tower: str) -> int:
    """The target's place in the whole list that the user would be answered with."""
    events = [Event(parent_asin=a, timestamp=t) for a, t in zip(user["history"], user["timestamps"], strict=True)]
    known = len({event.parent_asin for event in events} & {f"B{item}" for item in range(1, 31)})
    (answer,) = recommender.recommend([Request(history=events, k=30 - known, tower=tower)])
    answered = [item.parent_asin for item in answer.items]
    return answered.index(user["target"]) if user["target"] in answered else MISS


@pytest.mark.parametrize("tower", ["cf", "llm", "teacher"])
def test_a_rank_is_the_targets_place_in_the_answer(bundle: Bundle, recommender: Recommender, tower: str) -> None:
    users = users_of(new=4)
    asked = held_out.rank(bundle, users, tower)
    expected = np.array([plainly(recommender, user, tower) for user in users.to_dicts()])
    assert set(asked.ranks) == {"full"}
    assert np.abs(asked.ranks["full"].astype(np.int64) - expected).max() <= 1  # near-equal scores may change places
    assert (asked.unknown_targets, asked.unknown_events) == (10, 10)
    assert (asked.events, asked.popular) == (200, 0)


def test_a_user_of_whom_nothing_is_known_is_ranked_by_popularity(bundle: Bundle) -> None:
    counts = bundle.items["count"].to_list()
    user = {"user_id": [1], "history": [["X", "Y"]], "timestamps": [[1, 2]], "target": ["B7"]}
    asked = held_out.rank(bundle, pl.DataFrame(user), "llm")
    assert asked.ranks["full"].tolist() == [sum(count >= counts[6] for count in counts) - 1]
    assert (asked.popular, asked.unknown_events) == (1, 2)


def test_negatives_that_are_unknown_never_beat_the_target(bundle: Bundle, recommender: Recommender) -> None:
    users = users_of(new=0)
    everything = [[f"B{item}" for item in range(1, 31)] for _ in users["user_id"]]
    seen = [[a for a in row if a not in history] for row, history in zip(everything, users["history"], strict=True)]
    assert len({len(row) for row in seen}) == 1
    full = held_out.rank(bundle, users.with_columns(negatives=pl.Series(seen)), "cf").ranks
    assert (full["uni99"] == full["full"]).all()
    new = [[f"X{number}" for number in range(5)] for _ in users["user_id"]]
    assert held_out.rank(bundle, users.with_columns(negatives=pl.Series(new)), "cf").ranks["uni99"].max() == 0
