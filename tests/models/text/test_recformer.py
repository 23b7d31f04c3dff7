import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.files import write_json
from llmsrec.models.text.item_texts import Batch, ItemTexts
from llmsrec.models.text.recformer import Block, RecFormer, load, save

TEXTS = ItemTexts(np.array([0, 0, 2, 5, 10]), np.array([3, 6, 3, 7, 8, 3, 9, 4, 10, 6]), np.arange(5))
HISTORIES = [np.array([1, 2]), np.array([3]), np.array([2, 3, 1, 3, 2]), np.array([], dtype=np.int64)]


@pytest.fixture(scope="module")
def model() -> RecFormer:
    """Weights so large that every part of them shows."""
    made = RecFormer(
        TEXTS.vocabulary, dim=8, layers=2, heads=2, feed_forward=2, dropout=0.5, max_items=4, max_tokens=16
    ).initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    return made.eval()


def layed_out(histories: list[np.ndarray]) -> Batch:
    return TEXTS.batch(histories, 4, 16)


def sequences(histories: list[np.ndarray]) -> Sequences:
    items = np.concatenate(histories).astype(np.int32)
    return Sequences(np.cumsum([0, 0, *map(len, histories)]), items, np.zeros(len(items), dtype=np.int64))


@torch.no_grad()
def test_the_four_embeddings_are_summed_and_normalised(model):
    batch = layed_out(HISTORIES)
    actual = model.embed(batch)
    for row in range(len(HISTORIES)):
        for place in range(batch.tokens.shape[1]):
            total = torch.zeros(8)
            total += model.word.weight[batch.tokens[row, place]]
            total += model.position.weight[place]
            total += model.token_type.weight[batch.types[row, place]]
            total += model.item_position.weight[batch.items[row, place]]
            spread = (total - total.mean()) / (total.var(correction=0) + 1e-5).sqrt()
            expected = spread * model.norm.weight + model.norm.bias
            torch.testing.assert_close(actual[row, place], expected, rtol=1e-4, atol=1e-5)


def attend(block: Block, x: Tensor, real: int) -> Tensor:
    """A layer of one text, head by head and query by query."""
    key_weight, value_weight = block.key_value.weight.chunk(2)
    key_bias, value_bias = block.key_value.bias.chunk(2)
    query, key, value = block.query(x), F.linear(x, key_weight, key_bias), F.linear(x, value_weight, value_bias)
    attended = torch.zeros_like(x)
    for head in (slice(0, 4), slice(4, 8)):
        for place in range(len(x)):
            weights = torch.stack([query[place, head] @ key[other, head] / math.sqrt(4) for other in range(real)])
            attended[place, head] = weights.softmax(0) @ value[:real, head]
    x = block.attention_norm(x + block.output(attended))
    return block.feed_forward_norm(x + block.outer(F.gelu(block.inner(x))))


@torch.no_grad()
def test_every_token_sees_every_other_and_padding_none(model):
    batch = layed_out(HISTORIES)
    actual, start = model(batch), model.start(batch)
    for row, length in enumerate(batch.lengths):
        x = model.embed(batch)[row]
        for block in model.blocks:
            x = attend(block, x, int(length))
        torch.testing.assert_close(actual[row, :length], x[:length], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(start[row], x[0] / x[0].norm(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_text_alone_has_the_vector_that_it_has_beside_longer_ones(model):
    together = model.start(layed_out(HISTORIES))
    alone = torch.cat([model.start(layed_out([history])) for history in HISTORIES])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_newest_item_is_told_from_the_others(model):
    first, second = model.start(layed_out([np.array([1, 2]), np.array([2, 1])]))
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("tokens", [16_384, 1])
def test_the_vectors_of_all_users_are_those_of_each_alone(model, monkeypatch, tokens):
    monkeypatch.setattr("llmsrec.models.text.recformer.BATCH_TOKENS", tokens)
    actual = model.vectors(TEXTS, sequences(HISTORIES))
    with torch.no_grad():
        expected = torch.cat([model.start(layed_out([history])) for history in [HISTORIES[3], *HISTORIES]])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_an_item_is_a_history_of_its_own(model):
    actual = model.item_vectors(TEXTS)
    with torch.no_grad():
        expected = torch.cat([model.start(layed_out([np.array([item])])) for item in (1, 2, 3)])
    torch.testing.assert_close(actual[1:], expected, rtol=1e-4, atol=1e-5)
    assert not actual[0].any()


def test_vectors_are_without_dropout_and_leave_the_mode_as_it_was(model):
    model.train()
    actual = model.vectors(TEXTS, sequences(HISTORIES))
    assert model.training
    assert torch.equal(actual, model.eval().vectors(TEXTS, sequences(HISTORIES)))


@torch.no_grad()
def test_words_are_told_by_the_words_own_vectors(model):
    hidden = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    inner = model.hidden_word_norm(F.gelu(model.hidden_word(hidden)))
    expected = torch.stack([vector @ inner.T for vector in model.word.weight]).T + model.word_bias
    torch.testing.assert_close(model.words(hidden), expected, rtol=1e-4, atol=1e-5)


def test_first_values_are_drawn_from_the_generator_alone():
    def made(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(int(torch.randint(100, ())))
        return RecFormer(11, 8, 1, 2, 2, 0.0, 4, 16).initialise(torch.Generator().manual_seed(seed)).state_dict()

    assert all(torch.equal(a, b) for a, b in zip(made(1).values(), made(1).values(), strict=True))
    assert not torch.equal(made(1)["word.weight"], made(2)["word.weight"])


def test_what_is_saved_is_loaded(model, tmp_path):
    save(tmp_path, model, TEXTS, model.item_vectors(TEXTS))
    loaded, texts, items = load(tmp_path)
    assert not loaded.training and torch.equal(items, model.item_vectors(TEXTS))
    assert torch.equal(loaded.vectors(texts, sequences(HISTORIES)), model.vectors(TEXTS, sequences(HISTORIES)))


@pytest.mark.parametrize("damage", ["cut", "gone", "of another shape"])
def test_a_folder_that_cannot_be_used_is_one_line_that_names_it(model, tmp_path, damage):
    save(tmp_path, model, TEXTS, model.item_vectors(TEXTS))
    path = tmp_path / "model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "gone":
        path.unlink()
    else:
        write_json(tmp_path / "config.json", {**model.config, "layers": 1})
    with pytest.raises(DataError, match="holds no usable RECFORMER") as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
