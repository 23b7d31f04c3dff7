from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from transformers import PreTrainedTokenizerFast

from llmsrec.engine.embedded import train_tokenizer
from llmsrec.models.text.item_texts import KEYS, SPECIAL, ItemTexts

CATALOGUE = pl.DataFrame(
    {
        "title": ["Red Soap", "Hair Mask for Men", "Untitled item", "Blue Tent <|pad|>"],
        "store": ["Petal & Co", None, "Tentmaker", None],
        "categories": [["Bath", "soap"], [], ["Camping"], []],
    },
    schema_overrides={"categories": pl.List(pl.String)},
)
TITLE, BRAND, CATEGORY = KEYS, KEYS + 1, KEYS + 2


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(CATALOGUE["title"].to_list(), 300, np.random.default_rng(0))


@pytest.fixture(scope="module")
def texts(tokenizer: PreTrainedTokenizerFast) -> ItemTexts:
    return ItemTexts.of(CATALOGUE, tokenizer, 32)


def read(texts: ItemTexts, tokenizer: PreTrainedTokenizerFast, item: int) -> list[str]:
    """An item's text: each key's id as a word of its own, what stands between as it was written."""
    parts: list[str] = []
    for token in texts.tokens[texts.offsets[item] : texts.offsets[item + 1]]:
        if token < SPECIAL:
            parts += [f"#{token}", ""]
        else:
            parts[-1] += tokenizer.decode([texts.words[token - SPECIAL]])
    return parts


def test_an_item_is_its_keys_and_values_and_what_is_not_known_is_left_out(texts, tokenizer):
    title, brand, category = (f"#{key}" for key in (TITLE, BRAND, CATEGORY))
    assert read(texts, tokenizer, 0) == []
    assert read(texts, tokenizer, 1) == [title, " Red Soap", brand, " Petal & Co", category, " Bath, soap"]
    assert read(texts, tokenizer, 2) == [title, " Hair Mask for Men"]
    assert read(texts, tokenizer, 3) == [title, " Untitled item", brand, " Tentmaker", category, " Camping"]
    assert read(texts, tokenizer, 4) == [title, " Blue Tent <|pad|>"], "what spells a special token is text"
    assert texts.items == 4 and texts.vocabulary == texts.tokens.max() + 1


def test_a_catalogue_of_titles_alone_has_one_attribute(tokenizer):
    alone = ItemTexts.of(CATALOGUE.select("title"), tokenizer, 32)
    assert read(alone, tokenizer, 3) == [f"#{TITLE}", " Untitled item"]


def test_a_long_value_is_cut(texts, tokenizer):
    cut = ItemTexts.of(CATALOGUE, tokenizer, 2)
    for item in range(1, 5):
        whole = texts.tokens[texts.offsets[item] : texts.offsets[item + 1]]
        starts = [*np.flatnonzero(whole < SPECIAL), len(whole)]
        words = [texts.words[token - SPECIAL] for a, b in pairwise(starts) for token in whole[a + 1 : b][:2]]
        actual = cut.tokens[cut.offsets[item] : cut.offsets[item + 1]]
        assert [cut.words[token - SPECIAL] for token in actual if token >= SPECIAL] == words


def tiny() -> ItemTexts:
    """Items 1, 2 and 3 with texts of one, two and three words behind their keys."""
    tokens = [3, 6, 3, 7, 8, 3, 9, 4, 10, 6]
    return ItemTexts(np.array([0, 0, 2, 5, 10]), np.array(tokens), np.arange(5))


def test_the_layout_of_a_tiny_case_newest_first():
    batch = tiny().batch([np.array([1, 2]), np.array([3])], items=5, tokens=9)
    assert batch.tokens.tolist() == [[1, 3, 7, 8, 3, 6], [1, 3, 9, 4, 10, 6]]
    assert batch.types.tolist() == [[0, 1, 2, 2, 1, 2], [0, 1, 2, 1, 2, 2]]
    assert batch.items.tolist() == [[0, 1, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1]]
    assert batch.lengths.tolist() == [6, 6]


def test_too_long_a_history_loses_its_oldest_items_and_padding_is_on_the_right():
    batch = tiny().batch([np.array([3, 1, 2]), np.array([1]), np.array([], dtype=np.int64)], items=2, tokens=5)
    assert batch.tokens.tolist() == [[1, 3, 7, 8, 3], [1, 3, 6, 0, 0], [1, 0, 0, 0, 0]]
    assert batch.types.tolist() == [[0, 1, 2, 2, 1], [0, 1, 2, 3, 3], [0, 3, 3, 3, 3]]
    assert batch.items.tolist() == [[0, 1, 1, 1, 2], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert batch.lengths.tolist() == [5, 3, 1]


@pytest.mark.parametrize(("items", "tokens"), [(50, 256), (2, 256), (50, 7), (1, 4)])
def test_the_layout_is_that_of_a_loop(items, tokens):
    rng, texts = np.random.default_rng(1), tiny()
    histories = [rng.integers(1, 4, size) for size in rng.integers(0, 6, 20)]
    batch = texts.batch(histories, items, tokens)
    ends = np.cumsum([len(history) for history in histories])
    starts = ends - [min(items, len(history)) for history in histories]
    assert texts.lengths(np.concatenate(histories), starts, ends, tokens).tolist() == batch.lengths.tolist()
    for row, history in enumerate(histories):
        expected = [(1, 0, 0)]
        for number, item in enumerate(list(history[::-1])[:items], start=1):
            of_item = texts.tokens[texts.offsets[item] : texts.offsets[item + 1]]
            expected += [(token, 1 if token < SPECIAL else 2, number) for token in of_item]
        expected = expected[:tokens]
        assert batch.lengths[row] == len(expected)
        laid_out = zip(batch.tokens[row], batch.types[row], batch.items[row], strict=True)
        assert list(laid_out) == expected + [(0, 3, 0)] * (batch.tokens.shape[1] - len(expected))
