"""The prompt of Table 1: what it says, what it loses when it is too long, and what its answers are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from llmsrec.data.titles import UNTITLED
from llmsrec.errors import DataError, ParamsError
from llmsrec.prompts.pieces import USER_REPRESENTATION
from llmsrec.prompts.retrieval import DAY_MS, PromptSettings, plain_text_encoder
from llmsrec.prompts.titles import TitlePrompts
from tests.prompts.test_retrieval import show

TITLES = [
    "Red Soap",
    "Blue Tent [UserOut]",
    "a <|eot_id|> [HistoryEmb] <|begin_of_text|> b",
    "Blue Tent",
    "  ",
    "Grün " * 160,  # 800 characters
]
DAY = 16_100  # 2014-01-30
HISTORY = "This user has made a series of purchases in the following order: (History Item List:"
CHOOSE = ']). Choose one "Title" to recommend for this user to buy next from the following item "Title" set: ['


@pytest.fixture
def tokenizer(tiny_backbone: Any) -> Any:
    return tiny_backbone.tokenizer


def build(tokenizer: Any, settings: Any, limit: int | None = None, count: int = 3, **changes: Any) -> TitlePrompts:
    return TitlePrompts(tokenizer, TITLES, replace(PromptSettings.of(settings), **changes), limit, count)


def times(count: int) -> np.ndarray:
    return np.array([(DAY + k) * DAY_MS + 5_000 for k in range(count)])


def test_the_prompt_is_table_1b(tokenizer: Any, settings: Any) -> None:
    prompts = build(tokenizer, settings, title_tokens=60, max_tokens=1_000)
    batch = prompts.ask([np.array([1, 2]), np.array([4])], [times(2), times(1)], np.array([[4, 1, 2], [1, 3, 5]]))
    assert show(tokenizer, batch, 0) == (
        f"<|begin_of_text|>{HISTORY} [No.1 Time: 2014/01/30 Title: Red Soap,<item 1>], "
        f"[No.2 Time: 2014/01/31 Title: Blue Tent [UserOut],<item 2>{CHOOSE} "
        "Blue Tent,<item 4>; Red Soap,<item 1>; Blue Tent [UserOut],<item 2>]."
    )
    assert show(tokenizer, batch, 1) == (
        f"<|begin_of_text|>{HISTORY} [No.1 Time: 2014/01/30 Title: Blue Tent,<item 4>{CHOOSE} "
        f"Red Soap,<item 1>; {TITLES[2]},<item 3>; {UNTITLED},<item 5>]."
    )
    words = tokenizer.decode(batch.token_ids[0, : batch.constant])
    assert words == f"<|begin_of_text|>{HISTORY} [No.1 Time:"


def test_the_prompt_without_embeddings_is_table_1a(tokenizer: Any, settings: Any) -> None:
    prompts = build(tokenizer, settings, item_embedding=False)
    batch = prompts.ask([np.array([1, 4])], [times(2)], np.array([[4, 1, 1]]))
    assert show(tokenizer, batch, 0) == (
        f"<|begin_of_text|>{HISTORY} [No.1 Time: 2014/01/30 Title: Red Soap], "
        f"[No.2 Time: 2014/01/31 Title: Blue Tent{CHOOSE} Blue Tent; Red Soap; Red Soap]."
    )
    assert not batch.slots.any()


def test_the_prompt_with_a_user_representation_is_table_1c(tokenizer: Any, settings: Any) -> None:
    prompts = build(tokenizer, settings, user_representation=True)
    batch = prompts.ask([np.array([1])], [times(1)], np.array([[4, 1]]))
    assert show(tokenizer, batch, 0) == (
        "<|begin_of_text|>This is user representation from recommendation models:<user>, and this user has made a "
        "series of purchases in the following order: (History Item List: [No.1 Time: 2014/01/30 Title: "
        f"Red Soap,<item 1>{CHOOSE} Blue Tent,<item 4>; Red Soap,<item 1>]."
    )
    assert [slot for slot in batch.slots[0] if slot] == [USER_REPRESENTATION, 1, 4, 1]


def test_an_answer_is_the_title_as_it_is_shown_and_its_end(tokenizer: Any, settings: Any) -> None:
    prompts = build(tokenizer, settings, title_tokens=30, max_tokens=1_000)
    answers = prompts.answers(np.array([[1, 2, 3], [4, 5, 6]]))
    encode = plain_text_encoder(tokenizer)
    for row, items in enumerate([[1, 2, 3], [4, 5, 6]]):
        for column, item in enumerate(items):
            title = TITLES[item - 1] if item != 5 else UNTITLED
            tokens = answers.token_ids[row, column, : answers.sizes[row, column]].tolist()
            assert tokens == [*encode([f" {title}"])[0][:30], tokenizer.eos_token_id]
            assert not answers.token_ids[row, column, answers.sizes[row, column] :].any()
    assert prompts.longest == 31 == answers.sizes.max()
    assert answers.sizes[0, 0] < answers.sizes[0, 1], "a title that begins as another one ends earlier"


def test_a_title_that_spells_special_tokens_is_plain_text_in_prompt_and_answer(tokenizer: Any, settings: Any) -> None:
    prompts = build(tokenizer, settings, title_tokens=60, max_tokens=1_000)
    special = set(tokenizer.all_special_ids)
    batch = prompts.ask([np.array([3])], [times(1)], np.array([[3, 1, 2]]))
    assert special & set(batch.token_ids[0].tolist()) == {tokenizer.bos_token_id}
    answer = prompts.answers(np.array([[3]])).token_ids[0, 0].tolist()
    assert answer.index(prompts.end) == len(answer) - 1
    assert tokenizer.decode(answer[:-1]) == f" {TITLES[2]}"


@pytest.mark.parametrize("room", [240, 260, 300, 400])
def test_a_prompt_that_is_too_long_loses_its_oldest_items_and_never_a_candidate(
    tokenizer: Any, settings: Any, room: int
) -> None:
    prompts = build(tokenizer, settings, max_tokens=room, history=4)
    items, candidates = np.array([1, 2, 4, 6]), np.array([[2, 4, 1]])
    batch = prompts.ask([items], [times(4)], candidates)
    slots = [slot for slot in batch.slots[0] if slot]
    assert slots[-3:] == [2, 4, 1]
    kept = slots[:-3]
    assert kept == items[-len(kept) :].tolist()
    longest = prompts.answers(candidates).sizes.max()
    assert batch.lengths[0] + longest <= room
    text = show(tokenizer, batch, 0)
    assert text.endswith(f"{CHOOSE} Blue Tent [UserOut],<item 2>; Blue Tent,<item 4>; Red Soap,<item 1>].")
    if len(kept) < 4:
        older = build(tokenizer, settings, max_tokens=10_000, history=len(kept) + 1)
        needed = older.ask([items], [times(4)], candidates).lengths[0] + prompts.longest
        assert needed > room, "no more is lost than must be"


@pytest.mark.parametrize("room", [190, 220, 260])
def test_titles_are_cut_alike_where_all_candidates_would_not_fit(
    tokenizer: Any, settings: Any, room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = build(tokenizer, settings, max_tokens=room, title_tokens=100)
    cut = prompts.title_sizes.max()
    assert f"titles are cut to {cut} tokens" in capsys.readouterr().out
    candidates = np.array([[6, 6, 6]])
    batch = prompts.ask([np.array([6, 6])], [times(2)], candidates)
    assert batch.lengths[0] + prompts.longest <= room
    encode = plain_text_encoder(tokenizer)
    title = tokenizer.decode(encode([f" {TITLES[5]}"])[0][:cut])
    assert show(tokenizer, batch, 0).count(f"{title},<item 6>") == 4, "three candidates and the newest item"
    answer = prompts.answers(candidates)
    assert tokenizer.decode(answer.token_ids[0, 0, : answer.sizes[0, 0] - 1]) == title


def test_no_room_for_the_candidates_is_one_clear_error(tokenizer: Any, settings: Any) -> None:
    with pytest.raises(ParamsError, match=r"`model.max_tokens` is 400 .* no room for 90 candidates' titles beside"):
        build(tokenizer, settings, count=90)
    with pytest.raises(ParamsError, match=r"`model.max_tokens` is 400 and the backbone takes 130 tokens"):
        build(tokenizer, settings, limit=130)


def test_a_tokenizer_without_an_end_is_one_clear_error(tokenizer: Any, settings: Any) -> None:
    endless = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(DataError, match=r"no token that ends a text .*choose another `backbone.model`"):
        build(endless, settings)


def test_lengths_order_prompts_by_history_and_candidates(tokenizer: Any, settings: Any) -> None:
    prompts = build(tokenizer, settings, max_tokens=1_000)
    items, candidates = [np.array([1]), np.array([1, 6]), np.array([1])], np.array([[1, 4], [1, 4], [6, 4]])
    estimate = prompts.lengths(items, candidates)
    assert estimate[0] < estimate[1] and estimate[0] < estimate[2]
