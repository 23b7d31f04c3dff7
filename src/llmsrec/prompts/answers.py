"""Answers to prompts as token ids: titles with the token that ends a text."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Answers:
    """`C` answers for each of `B` prompts; the last token of each is the one that ends a text.

    Attributes:
        token_ids: `[B, C, N]` int64, padded with 0.
        sizes: `[B, C]` tokens of each.
    """

    token_ids: np.ndarray
    sizes: np.ndarray

    @cached_property
    def same(self) -> np.ndarray:
        """`[B, C]` the first of a prompt's answers with the same tokens, which is run for all of them: so equal ones
        tie."""
        equal = (self.token_ids[:, :, None] == self.token_ids[:, None]).all(axis=3)
        return (equal & (self.sizes[:, :, None] == self.sizes[:, None])).argmax(axis=2)

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`[P]` each: the prompt, the answer and the place of each token that is run, in this order."""
        real = np.arange(self.token_ids.shape[2]) < self.sizes[:, :, None]
        real &= (self.same == np.arange(self.sizes.shape[1]))[:, :, None]
        rows, answers, steps = np.nonzero(real)
        return rows, answers, steps

    def of(self, rows: slice) -> "Answers":
        """Those of some prompts."""
        return Answers(self.token_ids[rows], self.sizes[rows])
