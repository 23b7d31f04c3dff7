"""Texts tokenised once into flat arrays, and batches of prompts put together from them by indexing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

OUT = -1  # slot of [UserOut] or [ItemOut], the position that is read out
USER_REPRESENTATION = -2  # slot of [User Representation], Table 2 (c)


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of `B` users or items, padded on the right to length `L`.

    Attributes:
        token_ids: `[B, L]` int64; 0 where a slot or padding is.
        slots: `[B, L]` int64; 0 for a token, an item id for that item's embedding, `OUT`, `USER_REPRESENTATION`.
        lengths: `[B]` int64, tokens and slots of each prompt without padding.
        branches: None where each prompt is one text. Else `[B, L]` int64: a prompt is a trunk (0) with branches
            (1, 2, ...), each the ending of a shorter prompt that begins as the trunk does.
        visible: `[B, L]` int64 with `branches`: how many positions of the trunk a position of a branch follows.
        constant: so many positions, from the first, hold tokens that all prompts of this kind begin with.
        ends: of users' prompts the positions right behind each event of the history, `[events]` for each prompt.
    """

    token_ids: np.ndarray
    slots: np.ndarray
    lengths: np.ndarray
    branches: np.ndarray | None = None
    visible: np.ndarray | None = None
    constant: int = 0
    ends: list[np.ndarray] | None = None


@dataclass(frozen=True)
class Part:
    """A stretch of each of some prompts, as pieces in order.

    Attributes:
        pieces: `[P]` numbers of pieces.
        sizes: `[P]` how many of a piece's tokens are taken, from its first.
        rows: `[P]` the prompt that each belongs to, ascending.
        branches, visible: `[P]` as in `PromptBatch`.
    """

    pieces: np.ndarray
    sizes: np.ndarray
    rows: np.ndarray
    branches: np.ndarray | int = 0
    visible: np.ndarray | int = 0

    @classmethod
    def of(
        cls,
        pieces: np.ndarray | Sequence[int],
        rows: np.ndarray,
        source: "Pieces",
        branches: np.ndarray | None = None,
        visible: np.ndarray | None = None,
    ) -> "Part":
        """Whole `pieces`, `[n, k]`, or `[k]` the same for all of `[n]` `rows`; `branches` and `visible` are `[n]`."""
        every = np.broadcast_to(np.asarray(pieces), (len(rows), np.shape(pieces)[-1]))
        count, every = every.shape[1], every.ravel()
        tags = [0 if values is None else np.repeat(values, count) for values in (branches, visible)]
        return cls(every, source.sizes[every], np.repeat(rows, count), *tags)

    @classmethod
    def join(cls, parts: Sequence["Part"]) -> "Part":
        """Each prompt's stretches one after the other, in the order of `parts`."""
        order = np.argsort(np.concatenate([part.rows for part in parts]), kind="stable")
        columns = (
            np.concatenate([np.broadcast_to(getattr(part, name), part.rows.shape) for part in parts])[order]
            for name in ("pieces", "sizes", "rows", "branches", "visible")
        )
        return cls(*columns)

    def places(self) -> np.ndarray:
        """`[P]` the position in its prompt right behind each piece."""
        ends = self.sizes.cumsum()
        before = ends - self.sizes
        return ends - before[np.searchsorted(self.rows, self.rows)]


class Pieces:
    """Tokens of all texts in one flat array; a slot is a piece of one position that holds no token.

    Once all pieces are added, nothing changes any more, so that threads can make batches at the same time: the texts of
    a single batch, such as dates, are handed to `batch` and not kept. Their pieces are numbered on from the last one.

    Attributes:
        sizes: `[P]` positions of each piece.
    """

    def __init__(self) -> None:
        self.sizes = np.zeros(0, dtype=np.int64)
        self._tokens = np.zeros(0, dtype=np.int64)
        self._slots = np.zeros(0, dtype=np.int64)
        self._starts = np.zeros(0, dtype=np.int64)

    def add(self, texts: Sequence[Sequence[int]]) -> list[int]:
        """Take in token ids of texts; the numbers of their pieces."""
        tokens = np.fromiter(chain.from_iterable(texts), dtype=np.int64)
        return self._add(tokens, np.zeros_like(tokens), np.array([len(text) for text in texts], dtype=np.int64))

    def add_slots(self, slots: Iterable[int]) -> list[int]:
        """Take in slots; the numbers of their pieces."""
        values = np.fromiter(slots, dtype=np.int64)
        return self._add(np.zeros_like(values), values, np.ones_like(values))

    def batch(
        self,
        count: int,
        parts: Sequence[Part],
        texts: Sequence[np.ndarray | Sequence[int]] = (),
        branched: bool = False,
        constant: int = 0,
    ) -> PromptBatch:
        """`count` prompts, each the join of its stretches in `parts`.

        Args:
            texts: token ids of the texts that are pieces of this batch alone.
            branched: whether the parts have branches.
            constant: as in `PromptBatch`.
        """
        whole = Part.join(parts)
        lengths = np.bincount(whole.rows, weights=whole.sizes, minlength=count).astype(np.int64)
        ends = whole.sizes.cumsum()
        pieces, tokens = len(self.sizes), len(self._tokens)
        more = np.fromiter(chain.from_iterable(texts), dtype=np.int64)
        starts_of_more = tokens + np.cumsum([0, *map(len, texts)])
        starts = self._starts.take(whole.pieces, mode="clip")
        starts[whole.pieces >= pieces] = starts_of_more[whole.pieces[whole.pieces >= pieces] - pieces]
        source = np.repeat(starts - ends + whole.sizes, whole.sizes) + np.arange(ends[-1])
        token_ids, slots = self._tokens.take(source, mode="clip"), self._slots.take(source, mode="clip")
        token_ids[source >= tokens], slots[source >= tokens] = more[source[source >= tokens] - tokens], 0
        rows = np.repeat(np.arange(count), lengths)
        columns = np.arange(ends[-1]) - np.repeat(lengths.cumsum() - lengths, lengths)

        def padded(values: np.ndarray) -> np.ndarray:
            table = np.zeros((count, lengths.max()), dtype=np.int64)
            table[rows, columns] = values
            return table

        token_ids, slots = padded(token_ids), padded(slots)
        if not branched:
            return PromptBatch(token_ids, slots, lengths, constant=constant)
        branches, visible = (padded(np.repeat(values, whole.sizes)) for values in (whole.branches, whole.visible))
        return PromptBatch(token_ids, slots, lengths, branches, visible, constant)

    def _add(self, tokens: np.ndarray, slots: np.ndarray, sizes: np.ndarray) -> list[int]:
        first = len(self.sizes)
        self._starts = np.concatenate([self._starts, len(self._tokens) + sizes.cumsum() - sizes])
        self._tokens = np.concatenate([self._tokens, tokens])
        self._slots = np.concatenate([self._slots, slots])
        self.sizes = np.concatenate([self.sizes, sizes])
        return list(range(first, first + len(sizes)))
