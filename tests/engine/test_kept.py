"""What is kept of users' prompts changes nothing but what is computed: the twin runs every prompt whole."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.engine.kept import UNLIMITED, Kept
from llmsrec.engine.readout import read_out
from llmsrec.engine.torch_layers import TorchLayers
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.prompts.retrieval import DAY_MS, PromptBatch

TITLES = [f"{colour} {thing}" for colour in ("Red", "Blue", "Grün") for thing in ("Soap", "Hair Mask for Men", "Tent")]
Visit = tuple[list[int], int]  # items of a history, and the day of the first; the others follow day by day


@pytest.fixture(scope="module")
def visits() -> list[list[Visit]]:
    """Batches in which users come back: with one item more, with the same, with fewer, or as another user began."""
    rng = np.random.default_rng(0)
    users: list[Visit] = [(rng.integers(1, 10, rng.integers(1, 4)).tolist(), int(day)) for day in (0, 0, 9, 700, 9)]
    batches = []
    for _ in range(12):
        batch = []
        for _ in range(rng.integers(1, 5)):
            user = int(rng.integers(len(users)))
            items, first = users[user]
            how = rng.integers(4)
            if how == 0:
                items = [*items, int(rng.integers(1, 10))]
            elif how == 1:
                items = items[: max(1, len(items) - 1)]
            elif how == 2:
                items, first = users[int(rng.integers(len(users)))]
                items = [*items, 5]
            users[user] = items, first
            batch.append(users[user])
        batches.append(batch)
    return batches


def prompts_of(model: LLMSRec, batch: list[Visit]) -> PromptBatch:
    times = [DAY_MS * (16_000 + first + np.arange(len(items))) for items, first in batch]
    return model.prompts.users([np.array(items) for items, _ in batch], times)


def model_of(tiny_backbone: Any, teacher: Any, settings: Any, **changes: Any) -> LLMSRec:
    model = LLMSRec(tiny_backbone, teacher, TITLES, settings.model_copy(update=changes), seed=0)
    assert model.decoder is not None
    return model


def kept_of(model: LLMSRec, limit: int) -> Kept:
    assert model.decoder is not None
    return Kept(TorchLayers(model.decoder, model.item_inputs, model.user_out), limit)


def assert_right(model: LLMSRec, actual: np.ndarray, prompts: PromptBatch) -> None:
    with torch.no_grad():
        plain = read_out(model.backbone, prompts, model.item_inputs, model.user_out)
    torch.testing.assert_close(torch.from_numpy(actual), plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("limit", [1, 10_000, 60_000, UNLIMITED], ids=["nothing", "little", "some", "all"])
@pytest.mark.parametrize("changes", [{}, {"max_tokens": 150}], ids=["whole histories", "the oldest left out"])
def test_hidden_states_are_those_of_whole_prompts_and_the_limit_holds(
    visits: list[list[Visit]], limit: int, changes: dict[str, Any], tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    model = model_of(tiny_backbone, teacher, settings, **changes)
    kept, positions = kept_of(model, limit), 0
    for batch in visits:
        prompts = prompts_of(model, batch)
        assert_right(model, kept.read_out(prompts), prompts)
        counted = kept.counted()
        positions += counted["positions"]
        assert counted["prompts"] == len(batch)
        assert counted["bytes"] <= limit
    assert (positions > 0) == (limit > 1)


def test_what_is_spared_is_the_longest_beginning_that_any_prompt_before_had(
    visits: list[list[Visit]], tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    model = model_of(tiny_backbone, teacher, settings)
    kept, before = kept_of(model, UNLIMITED), list[list[tuple[int, int]]]()
    for batch in visits:
        prompts = prompts_of(model, batch)
        texts = [
            list(zip(tokens[:length].tolist(), slots[:length].tolist(), strict=True))
            for tokens, slots, length in zip(prompts.token_ids, prompts.slots, prompts.lengths, strict=True)
        ]
        expected = actual = 0
        assert prompts.ends is not None
        for text, ends in zip(texts, prompts.ends, strict=True):
            shared = [end for end in ends.tolist() if any(text[:end] == other[:end] for other in before)]
            expected += max(shared, default=prompts.constant) - prompts.constant
            actual += bool(shared)
        kept.read_out(prompts)
        counted = kept.counted()
        assert (counted["positions"], counted["found"]) == (expected, actual)
        before += texts


def test_an_event_ends_with_its_item_and_the_last_before_the_ending(
    tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    prompts = prompts_of(model_of(tiny_backbone, teacher, settings), [([3, 1, 4], 0), ([5], 0)])
    assert prompts.ends is not None
    assert [slots[ends - 1].tolist() for slots, ends in zip(prompts.slots, prompts.ends, strict=True)] == [
        [3, 1, 4],
        [5],
    ]


def test_what_was_used_longest_ago_goes_first_and_a_prompts_last_event_before_those_before_it(
    tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    model = model_of(tiny_backbone, teacher, settings)
    many = [prompts_of(model, [([1, 2, 3], day)]) for day in range(300)]
    first, second, third = [prompts for prompts in many if prompts.lengths[0] == many[0].lengths[0]][:3]
    assert first.ends is not None
    probe = kept_of(model, UNLIMITED)
    probe.read_out(first)
    probe.read_out(second)
    kept = kept_of(model, probe.counted()["bytes"])  # room for two
    kept.read_out(first)
    kept.read_out(second)
    kept.read_out(first)
    kept.read_out(third)
    kept.counted()
    kept.read_out(first)
    assert kept.counted()["positions"] == first.ends[0][-1] - first.constant
    less = kept_of(model, probe.counted()["bytes"] // 2 - 1)  # no room for one
    less.read_out(first)
    less.counted()
    less.read_out(first)
    assert less.counted()["positions"] == first.ends[0][-2] - first.constant


def test_another_date_or_title_of_the_same_item_is_not_taken_for_it(
    tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    model = model_of(tiny_backbone, teacher, settings)
    kept = kept_of(model, UNLIMITED)
    kept.read_out(prompts_of(model, [([1, 2], 0)]))
    kept.counted()
    other = prompts_of(model, [([1, 2], 1)])
    assert_right(model, kept.read_out(other), other)
    assert kept.counted()["found"] == 0


def test_eight_threads_get_what_one_gets(
    visits: list[list[Visit]], tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    model = model_of(tiny_backbone, teacher, settings)
    kept = kept_of(model, 60_000)  # so that events come and go all the time

    def ask(thread: int) -> None:
        for batch in visits[thread:] + visits[:thread]:
            prompts = prompts_of(model, batch)
            assert_right(model, kept.read_out(prompts), prompts)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [None] * 8
    counted = kept.counted()
    assert counted["prompts"] == 8 * sum(map(len, visits))
    assert 0 < counted["bytes"] <= 60_000
