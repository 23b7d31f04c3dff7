"""The readers of a history but for the language model: `cf`, the teacher that it was distilled into, and `blend`."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmsrec.evaluation.blend import Blend, items
from llmsrec.serving.bundle import Bundle

WIDEST = 16  # histories; more at once gain little
# tower -> the tensor of a bundle that holds the item vectors its user vectors are multiplied with; `blend` has both
ITEMS = {"llm": "item_vectors", "cf": "item_vectors", "teacher": "item_embeddings"}


@dataclass(frozen=True)
class History:
    """A request's known items, oldest first, and when they were met; distinct, but where the model keeps repeats.

    Attributes:
        items: `[n]` int64 item ids, 1..I.
        timestamps: `[n]` int64, ms since epoch.
        unknown: parent_asins that the catalogue does not have, oldest first, each once.
    """

    items: np.ndarray
    timestamps: np.ndarray
    unknown: list[str]


class Tower(Protocol):
    """What gives `[B, d']` (`teacher`: `[B, d]`) user vectors of `B` histories, and how many positions each takes."""

    def vectors(self, histories: list[History]) -> np.ndarray: ...

    def lengths(self, histories: list[History]) -> np.ndarray: ...


class Teacher:
    """The teacher on ONNX Runtime: O_u, what the sequential recommender makes of a history; the tower `teacher`."""

    def __init__(self, bundle: Bundle) -> None:
        self._last = bundle.models[bundle.teacher]
        self.length = bundle.config["shapes"]["max_length"]

    def vectors(self, histories: list[History]) -> np.ndarray:
        """`[B, d]` float32 of `B` histories with one item at least."""
        table = np.zeros((len(histories), self.length), dtype=np.int64)
        for row, history in zip(table, histories, strict=True):
            recent = history.items[-self.length :]
            row[self.length - len(recent) :] = recent
        return self._last(table)

    def lengths(self, histories: list[History]) -> np.ndarray:
        """`[B]` positions that the teacher reads: all of them, however short a history is."""
        return np.full(len(histories), self.length)


class CFTower:
    """The teacher and f_CF-user: no language model, no torch."""

    def __init__(self, bundle: Bundle) -> None:
        self._teacher = Teacher(bundle)
        self._f_cf_user = bundle.models["f_cf_user"]

    def vectors(self, histories: list[History]) -> np.ndarray:
        """`[B, d']` float32."""
        return self._f_cf_user(self._teacher.vectors(histories))

    def lengths(self, histories: list[History]) -> np.ndarray:
        """`[B]`, see `Teacher`."""
        return self._teacher.lengths(histories)


class BlendTower:
    """The language model and the teacher, their vectors behind each other (`evaluation.blend`)."""

    def __init__(self, llm: Tower, teacher: Tower, blend: Blend) -> None:
        self._llm, self._teacher, self._blend = llm, teacher, blend

    def vectors(self, histories: list[History]) -> np.ndarray:
        """`[B, d' + d]` float32."""
        return self._blend.users(self._llm.vectors(histories), self._teacher.vectors(histories))

    def lengths(self, histories: list[History]) -> np.ndarray:
        """`[B]` those of the language model, which takes nearly all of the time."""
        return self._llm.lengths(histories)


def item_vectors(bundle: Bundle, tower: str) -> np.ndarray:
    """`[n + 1, d]` what a tower's user vectors are multiplied with; row 0 is padding."""
    if tower == "blend":
        return items(bundle.tensors[ITEMS["llm"]], bundle.tensors[ITEMS["teacher"]])
    return bundle.tensors[ITEMS[tower]]


def widest(tower: Tower, items: int) -> int:
    """How many histories may go through a tower at once so that each gets the very vector that it gets alone.

    The last digits of a product depend on its number of rows where the processor has other kernels for one row than for
    several. They depend on the number alone and not on what the rows hold, so each number is tried once; if any gives
    another vector, the answer is 1, else WIDEST.

    Args:
        items: of the catalogue.
    """
    random = np.random.default_rng(0)
    lengths = random.integers(1, 2 * WIDEST, WIDEST)
    histories = [
        History(random.integers(1, items + 1, length), np.zeros(length, dtype=np.int64), []) for length in lengths
    ]
    alone = np.concatenate([tower.vectors([history]) for history in histories])
    sizes = range(2, WIDEST + 1)
    same = all(np.array_equal(tower.vectors(histories[:size]), alone[:size]) for size in sizes)
    return WIDEST if same else 1
