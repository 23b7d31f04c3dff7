"""How many histories go through a tower at once."""

from typing import Any

import numpy as np
import pytest

from llmsrec.serving.bundle import Bundle
from llmsrec.serving.towers import WIDEST, CFTower, History, Teacher, widest


class Rounded:
    """A tower whose last digits depend on how many rows go through it, from so many on."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def vectors(self, histories: list[History]) -> np.ndarray:
        sums = np.array([[history.items.sum()] for history in histories], dtype=np.float64)
        return sums * (1 + 1e-12 * (len(histories) >= self._rows))

    def lengths(self, histories: list[History]) -> np.ndarray:
        return np.ones(len(histories))


@pytest.mark.parametrize("rows", [2, 7, WIDEST])
def test_a_tower_that_gives_another_digit_to_any_number_of_rows_gets_them_alone(rows: int) -> None:
    assert widest(Rounded(rows), 30) == 1
    assert widest(Rounded(WIDEST + 1), 30) == WIDEST


@pytest.mark.parametrize("kind", [CFTower, Teacher])
def test_as_many_as_are_let_through_at_once_get_the_very_vectors_that_each_gets_alone(tiny: Any, kind: Any) -> None:
    tower, random = kind(Bundle.open(tiny.bundle)), np.random.default_rng(7)
    histories = [History(random.integers(1, 31, size), np.zeros(size, dtype=np.int64), []) for size in range(1, 33)]
    most = widest(tower, 30)
    for size in range(1, most + 1):
        for start in range(0, len(histories) - size, 5):
            part = histories[start : start + size]
            alone = np.concatenate([tower.vectors([history]) for history in part])
            assert np.array_equal(tower.vectors(part), alone)
