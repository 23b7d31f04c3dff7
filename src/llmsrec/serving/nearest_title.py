"""Which of the known items has the title most like another, by the words that they share."""

from collections import Counter
from math import log

import numpy as np
import polars as pl


class NearestTitle:
    """Finds the known title nearest to another: the largest cosine of TF-IDF vectors of words.

    A word's weight is (1 + log tf) (1 + log((1 + I) / (1 + df))), that of scikit-learn's TfidfVectorizer with
    `sublinear_tf`, which an image that serves is spared. A search reads the items that have one of the title's words,
    so a catalogue of a million asks for no index.

    Args:
        titles: of the items 1..I.
    """

    def __init__(self, titles: list[str]) -> None:
        words = pl.DataFrame({"word": _words(titles)}).with_row_index("item", offset=1).explode("word").drop_nulls()
        vocabulary = words["word"].unique().sort()
        numbers = words["word"].cast(pl.Enum(vocabulary)).to_physical().to_numpy().astype(np.int64)
        pairs, tf = np.unique(numbers << 32 | words["item"].to_numpy(), return_counts=True)
        numbers, self._items = pairs >> 32, pairs & 0xFFFFFFFF
        df = np.bincount(numbers, minlength=len(vocabulary))
        self._idf = 1 + np.log((1 + len(titles)) / (1 + df))
        weights = (1 + np.log(tf)) * self._idf[numbers]
        lengths = np.sqrt(np.bincount(self._items, weights**2, minlength=1 + len(titles)))
        self._weights, self._count = (weights / lengths[self._items]).astype(np.float32), len(titles)
        self._numbers = {word: number for number, word in enumerate(vocabulary)}
        self._first = np.concatenate([[0], np.cumsum(df)])

    def of(self, titles: list[str]) -> np.ndarray:
        """`[n]` numbers 1..I of the items with the nearest titles, the first of equals; 0: no word is known."""
        return np.array([self._nearest(Counter(words)) for words in _words(titles)], dtype=np.int64)

    def _nearest(self, tf: Counter[str]) -> int:
        scores = np.zeros(1 + self._count, dtype=np.float32)
        for word, count in tf.items():
            if (number := self._numbers.get(word)) is not None:
                having = slice(*self._first[number : number + 2])
                scores[self._items[having]] += (1 + log(count)) * self._idf[number] * self._weights[having]
        return int(scores.argmax())


def _words(titles: list[str]) -> pl.Series:
    """Of each title its words and numbers, in lower case; those of one letter too, which tell No 7 from No 8."""
    return pl.Series(titles, dtype=pl.String).str.to_lowercase().str.extract_all(r"\w+")
