"""Titles that share a prompt's keys and values are as likely as in separate passes, whatever the family."""

from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.engine import likelihood
from llmsrec.engine.decoder import Decoder
from llmsrec.engine.generation import greedy
from llmsrec.engine.likelihood import choose, prefill, score
from llmsrec.engine.vocabulary import Vocabulary
from llmsrec.prompts.answers import Answers
from tests.engine.conftest import WAYS, language_model

END = 2
LENGTHS = [90, 7, 41]
# A title that is a prefix of another's, two equal titles, one of a single token, an empty one.
TITLES = [[7, 8, 9], [7, 8], [7, 8, 9], [30], [], [7, 8, 9, 10, 11, 12, 13], [9, 8, 7, 30]]


def answers(rows: list[list[list[int]]]) -> Answers:
    ended = [[[*title, END] for title in row] for row in rows]
    width = max(len(title) for row in ended for title in row)
    table = np.array([[[*title, *[0] * (width - len(title))] for title in row] for row in ended])
    return Answers(table, np.array([[len(title) for title in row] for row in ended]))


def given() -> tuple[torch.Tensor, Answers]:
    tokens = np.random.default_rng(0).integers(3, 300, (len(LENGTHS), max(LENGTHS)))
    return torch.from_numpy(tokens), answers([TITLES, TITLES[::-1], [*TITLES[3:], *TITLES[:3]]])


def scored(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    values = score(*arguments)
    return values.summed, values.mean


def slow(model: Any, tokens: torch.Tensor, of: Answers) -> tuple[torch.Tensor, torch.Tensor]:
    """Each text by itself through the whole model: no cache, no padding, no sharing."""
    summed = torch.zeros(of.sizes.shape)
    for row, length in enumerate(LENGTHS):
        for answer, size in enumerate(of.sizes[row]):
            title = torch.from_numpy(of.token_ids[row, answer, :size])
            text = torch.cat([tokens[row, :length], title])
            logits = model(input_ids=text[None], use_cache=False).logits[0].float()
            following = logits[length - 1 : length + size - 1].log_softmax(dim=1)
            summed[row, answer] = sum(following[k, token] for k, token in enumerate(title.tolist()))
    return summed, summed / torch.from_numpy(of.sizes)


@torch.no_grad()
def test_likelihoods_equal_separate_passes_on_a_family(whole: tuple[Any, str]) -> None:
    model, way = whole
    tokens, of = given()
    base, lengths = model.base_model, torch.tensor(LENGTHS)
    inputs = model.get_input_embeddings()(tokens)
    chosen, _ = choose(base, inputs, lengths, of)
    assert chosen.__name__ == way
    expected = slow(model, tokens, of)
    for _ in range(2):  # a cache that is changed in place goes wrong at the second use
        prompts = prefill(base, inputs, lengths, chosen)
        for _ in range(2):
            values = scored(base, Vocabulary(model), prompts, of, chosen)
            for ours, theirs in zip(values, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["in_a_tree", "in_rows", "separately"])
@torch.no_grad()
def test_every_way_gives_the_same_on_a_family_where_all_are_right(way: str, whole_models: dict[str, Any]) -> None:
    model = whole_models.setdefault("Llama", language_model("Llama"))
    tokens, of = given()
    states = getattr(likelihood, way)
    prompts = prefill(model.base_model, model.get_input_embeddings()(tokens), torch.tensor(LENGTHS), states)
    values = scored(model.base_model, Vocabulary(model), prompts, of, states)
    for ours, theirs in zip(values, slow(model, tokens, of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_equal_titles_tie_exactly_and_a_prefix_does_not(whole: tuple[Any, str]) -> None:
    model, _ = whole
    tokens, of = given()
    states, _ = choose(model.base_model, model.get_input_embeddings()(tokens), torch.tensor(LENGTHS), of)
    prompts = prefill(model.base_model, model.get_input_embeddings()(tokens), torch.tensor(LENGTHS), states)
    for values in scored(model.base_model, Vocabulary(model), prompts, of, states):
        assert values[0, 0] == values[0, 2] and values[1, 6] == values[1, 4]
        assert len(set(values[0].tolist())) == len(TITLES) - 1


@torch.no_grad()
def test_a_prompt_has_the_same_likelihoods_alone_and_in_any_batch(whole_models: dict[str, Any]) -> None:
    model = whole_models.setdefault("Llama", language_model("Llama"))
    tokens, of = given()
    inputs, way = model.get_input_embeddings()(tokens), likelihood.in_a_tree
    together = scored(
        model.base_model, Vocabulary(model), prefill(model.base_model, inputs, torch.tensor(LENGTHS), way), of, way
    )
    for row, length in enumerate(LENGTHS):
        alone = prefill(model.base_model, inputs[row : row + 1, :length], torch.tensor([length]), way)
        values = scored(model.base_model, Vocabulary(model), alone, of.of(slice(row, row + 1)), way)
        for ours, theirs in zip(together, values, strict=True):
            torch.testing.assert_close(ours[row : row + 1], theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_only_empty_titles_are_an_end_after_the_prompt(whole_models: dict[str, Any]) -> None:
    model = whole_models.setdefault("Llama", language_model("Llama"))
    tokens, of = given()[0], answers([[[], []]] * len(LENGTHS))
    for way in (likelihood.in_a_tree, likelihood.in_rows, likelihood.separately):
        prompts = prefill(model.base_model, model.get_input_embeddings()(tokens), torch.tensor(LENGTHS), way)
        summed, mean = scored(model.base_model, Vocabulary(model), prompts, of, way)
        torch.testing.assert_close(summed, slow(model, tokens, of)[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(summed, mean)


@torch.no_grad()
def test_a_family_that_scales_or_bounds_its_logits_is_projected_as_it_does(whole: tuple[Any, str]) -> None:
    model, _ = whole
    inputs = model.get_input_embeddings()(torch.tensor([[5, 80, 7, 200, 31]]))
    hidden = model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state[0]
    logits = model(inputs_embeds=inputs, use_cache=False).logits[0]
    vocabulary = Vocabulary(model)
    torch.testing.assert_close(vocabulary(hidden), logits, rtol=1e-4, atol=1e-4)
    again = model(inputs_embeds=inputs, use_cache=False).logits[0]
    assert torch.equal(again, logits), "the model is left as it was"


def test_the_projection_has_a_gradient_to_the_states(whole_models: dict[str, Any]) -> None:
    for name in ("Llama", "Cohere"):
        model = whole_models.setdefault(name, language_model(name))
        hidden = torch.randn(3, 32, requires_grad=True)
        Vocabulary(model)(hidden).square().sum().backward()
        assert hidden.grad is not None and hidden.grad.abs().sum() > 0


def slow_greedy(model: Any, text: torch.Tensor, most: int) -> list[int]:
    written: list[int] = []
    while len(written) < most:
        logits = model(input_ids=torch.cat([text, torch.tensor(written, dtype=torch.long)])[None], use_cache=False)
        token = int(logits.logits[0, -1].argmax())
        if token == END:
            break
        written.append(token)
    return written


@torch.no_grad()
def test_greedy_text_equals_that_of_whole_passes_token_by_token(whole: tuple[Any, str]) -> None:
    model, way = whole
    states = getattr(likelihood, way)
    tokens = given()[0]
    prompts = prefill(model.base_model, model.get_input_embeddings()(tokens), torch.tensor(LENGTHS), states)
    expected = [slow_greedy(model, tokens[row, :length], 6) for row, length in enumerate(LENGTHS)]
    for _ in range(2):
        assert greedy(model.base_model, Vocabulary(model), prompts, END, 6, states) == expected


@torch.no_grad()
def test_a_text_ends_at_its_end_token_while_others_go_on(whole_models: dict[str, Any]) -> None:
    model = whole_models.setdefault("Llama", language_model("Llama"))
    tokens, way = given()[0], likelihood.in_a_tree
    prompts = prefill(model.base_model, model.get_input_embeddings()(tokens), torch.tensor(LENGTHS), way)
    free = [slow_greedy(model, tokens[row, :length], 8) for row, length in enumerate(LENGTHS)]
    end = free[1][2]  # a token that one of them writes on its way
    cut = [row[: row.index(end)] if end in row else row for row in free]
    assert len({len(row) for row in cut}) > 1
    assert greedy(model.base_model, Vocabulary(model), prompts, end, 8, way) == cut


def test_every_way_is_tried_by_some_family() -> None:
    assert set(WAYS.values()) == {"in_a_tree", "in_rows", "separately"}


@torch.no_grad()
def test_an_answer_is_called_greedy_exactly_where_it_is_what_the_model_writes(whole: tuple[Any, str]) -> None:
    model, way = whole
    states, tokens = getattr(likelihood, way), given()[0]
    prompts = prefill(model.base_model, model.get_input_embeddings()(tokens), torch.tensor(LENGTHS), states)
    free = greedy(model.base_model, Vocabulary(model), prompts, -1, 5, states)
    of = Answers(np.array([[row, [*row[:-1], END], row] for row in free]), np.full((3, 3), 5))
    actual = score(model.base_model, Vocabulary(model), prompts, of, states).greedy
    assert actual.tolist() == [[True, row[-1] == END, True] for row in free]


@torch.no_grad()
def test_prompts_that_the_decoder_begins_have_the_models_own_keys_and_states(whole_models: dict[str, Any]) -> None:
    for name in ("Llama", "Llama (grouped queries)"):
        base = whole_models.setdefault(name, language_model(name)).base_model
        inputs, lengths = base.get_input_embeddings()(given()[0]), torch.tensor(LENGTHS)
        plain = prefill(base, inputs, lengths, likelihood.in_a_tree)
        ours = prefill(base, inputs, lengths, likelihood.in_a_tree, Decoder.of(base))
        torch.testing.assert_close(ours.last, plain.last, rtol=1e-4, atol=1e-5)
        for part, expected in zip(ours.parts, plain.parts, strict=True):
            for row, length in enumerate(LENGTHS):
                torch.testing.assert_close(part[row, :, :length], expected[row, :, :length], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_decoder_that_is_wrong_on_these_prompts_is_left_out(
    whole_models: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = whole_models.setdefault("Llama", language_model("Llama"))
    inputs, (_, of) = model.get_input_embeddings()(given()[0]), given()

    class Wrong(Decoder):
        def begin(self, inputs: torch.Tensor, lengths: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
            parts, last = super().begin(inputs, lengths)
            return [part * 1.01 for part in parts], last

    way, decoder = choose(model.base_model, inputs, torch.tensor(LENGTHS), of, Wrong(model.base_model))
    assert way is likelihood.in_a_tree and decoder is None
    assert "titles are not run in a tree: states are" in capsys.readouterr().out
    right = Decoder(model.base_model)
    assert choose(model.base_model, inputs, torch.tensor(LENGTHS), of, right) == (likelihood.in_a_tree, right)
