"""Items as key-value texts, and histories of them as token ids with four numbers each, as RECFORMER reads them.

An item is flattened to `title <its title> brand <its brand> category <its categories>` (Li et al., "Text Is All You
Need: Learning Language Representations for Sequential Recommendation", 2023, Sec. 2.2.1). What the catalogue does not
say of an item is left out, key and all. A key is one token of its own, whatever the tokenizer makes of the word: in
theirs it is one, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from llmsrec.prompts.retrieval import plain_text_encoder

PAD, START, MASK = 0, 1, 2  # ids of padding, of `<s>` in front of all, of what hides a token
OF_START, OF_KEY, OF_VALUE, OF_PAD = 0, 1, 2, 3  # token types
COLUMNS = {"title": "title", "brand": "store", "category": "categories"}  # key -> column of items.parquet
KEYS = 3  # the first key's id
SPECIAL = KEYS + len(COLUMNS)


@dataclass(frozen=True)
class Batch:
    """Histories as texts: `<s>`, then the items' texts, the newest item first; all `[B, L]` int64, padded on the right.

    Attributes:
        tokens: ids of the vocabulary of an `ItemTexts`.
        types: `OF_START`, `OF_KEY`, `OF_VALUE` or `OF_PAD`.
        items: 0 for `<s>` and padding, 1 for the tokens of the newest item, 2 for those of the one before, ...
        lengths: `[B]` tokens of each history, `<s>` included.
    """

    tokens: np.ndarray
    types: np.ndarray
    items: np.ndarray
    lengths: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Batch":
        """Some of the histories, padded as far as all are."""
        return Batch(self.tokens[chosen], self.types[chosen], self.items[chosen], self.lengths[chosen])


@dataclass(frozen=True)
class ItemTexts:
    """The texts of items 1, ..., I (CSR).

    Attributes:
        offsets: `[I + 2]`; item i's tokens are `offsets[i]` up to `offsets[i + 1]`. Item 0 has none.
        tokens: `[N]` ids: of a key, or from `SPECIAL` on.
        words: `[W]` the tokenizer's own number of each id from `SPECIAL` on: those that the texts use, ascending.
    """

    offsets: np.ndarray
    tokens: np.ndarray
    words: np.ndarray

    @classmethod
    def of(cls, catalogue: pl.DataFrame, tokenizer: Any, longest: int) -> "ItemTexts":
        """Tokenise a catalogue.

        Args:
            catalogue: items 1, 2, ..., I with `title`, and `store` and `categories` where the data have them.
            tokenizer: a Hugging Face fast tokenizer.
            longest: tokens of a value that are kept.
        """
        encode = plain_text_encoder(tokenizer)
        parts: list[list[list[int]]] = []  # key's and value's tokens of each attribute in turn, item by item
        for key, column in enumerate(COLUMNS.values(), start=KEYS):
            if column not in catalogue.columns:
                continue
            values = catalogue[column]
            if values.dtype == pl.List:
                values = values.list.join(", ")
            texts = encode([f" {value}" if value else "" for value in values])
            parts += [[[key - SPECIAL] if text else [] for text in texts], [text[:longest] for text in texts]]
        sizes = [sum(map(len, of_item)) for of_item in zip(*parts, strict=True)]
        flat = np.fromiter(chain.from_iterable(chain.from_iterable(zip(*parts, strict=True))), dtype=np.int64)
        words, ids = np.unique(flat[flat >= 0], return_inverse=True)
        flat[flat >= 0] = ids
        return cls(np.concatenate([[0, 0], np.cumsum(sizes)]).astype(np.int64), flat + SPECIAL, words)

    @property
    def vocabulary(self) -> int:
        """The number of different ids."""
        return SPECIAL + len(self.words)

    @property
    def items(self) -> int:
        """The number of items I."""
        return len(self.offsets) - 2

    def lengths(self, events: np.ndarray, starts: np.ndarray, ends: np.ndarray, tokens: int) -> np.ndarray:
        """`[n]` tokens of histories in a `batch`: those of `events[starts]` up to `events[ends]`, `tokens` at most."""
        totals = np.concatenate([[0], np.diff(self.offsets)[events].cumsum()])
        return np.minimum(1 + totals[ends] - totals[starts], tokens)

    def batch(self, histories: Sequence[np.ndarray], items: int, tokens: int) -> Batch:
        """Lay histories out as texts.

        Args:
            histories: `B` arrays of item ids, oldest first; of an empty one there is `<s>` alone.
            items: so many of a history's items are kept, the newest.
            tokens: a longer text loses its end, which is of the oldest items.
        """
        newest = [history[::-1][:items] for history in histories]
        counts = np.array([len(history) for history in newest], dtype=np.int64)
        events = np.concatenate([np.zeros(0, dtype=np.int64), *newest]).astype(np.int64)
        number = np.arange(len(events)) - np.repeat(counts.cumsum() - counts, counts) + 1
        sizes = self.offsets[events + 1] - self.offsets[events]
        totals = np.zeros(len(newest), dtype=np.int64)
        np.add.at(totals, np.repeat(np.arange(len(newest)), counts), sizes)
        source = np.repeat(self.offsets[events] - sizes.cumsum() + sizes, sizes) + np.arange(sizes.sum())
        rows = np.repeat(np.arange(len(newest)), totals)
        columns = 1 + np.arange(len(source)) - np.repeat(totals.cumsum() - totals, totals)
        kept = columns < tokens
        lengths = np.minimum(1 + totals, tokens)

        def table(start: int, padding: int, values: np.ndarray) -> np.ndarray:
            laid_out = np.full((len(newest), lengths.max()), padding, dtype=np.int64)
            laid_out[:, 0] = start
            laid_out[rows[kept], columns[kept]] = values[kept]
            return laid_out

        return Batch(
            table(START, PAD, self.tokens[source]),
            table(OF_START, OF_PAD, np.where(self.tokens[source] < SPECIAL, OF_KEY, OF_VALUE)),
            table(0, 0, np.repeat(number, sizes)),
            lengths,
        )
