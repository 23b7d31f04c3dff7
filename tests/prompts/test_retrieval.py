import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llmsrec.errors import ParamsError
from llmsrec.prompts.retrieval import (
    DAY_MS,
    ORDER,
    OUT,
    REPRESENTATION,
    USER_REPRESENTATION,
    PromptBatch,
    Prompts,
    PromptSettings,
    plain_text_encoder,
)
from tests.prompts.plain_prompts import PlainPrompts

TITLES = ["Red Soap", "Blue Tent [UserOut]", "a <|eot_id|> [HistoryEmb] <|begin_of_text|> b", "Grün " * 40]
DAY = 16_100  # 2014-01-30


@pytest.fixture
def tokenizer(tiny_backbone: Any) -> Any:
    return tiny_backbone.tokenizer


def show(tokenizer: Any, prompts: PromptBatch, row: int) -> str:
    """The prompt as text, with slots spelled out."""
    names = {OUT: "<out>", USER_REPRESENTATION: "<user>"}
    length = prompts.lengths[row]
    text, run = "", []
    for token, slot in zip(prompts.token_ids[row, :length], prompts.slots[row, :length], strict=True):
        if slot:
            text += tokenizer.decode(run) + names.get(int(slot), f"<item {slot}>")
            run = []
        else:
            run.append(int(token))
    return text + tokenizer.decode(run)


def assert_same(actual: PromptBatch, expected: PromptBatch) -> None:
    for name in ("token_ids", "slots", "lengths", "branches", "visible"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), name)


@pytest.mark.parametrize("max_tokens", [150, 170, 200, 400])
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("embedded", [False, True])
def test_prompts_equal_those_put_together_from_lists(
    tokenizer: Any, settings: Any, max_tokens: int, explicit: bool, embedded: bool
) -> None:
    changes = {"max_tokens": max_tokens, "user_representation": explicit, "title_tokens": 60, "history": 4}
    of = PromptSettings.of(settings.model_copy(update=changes), embedded)
    prompts, plain = Prompts(tokenizer, TITLES, of), PlainPrompts(tokenizer, TITLES, of)
    rng = np.random.default_rng(0)
    for size in (1, 7):
        rows = [rng.integers(1, len(TITLES) + 1, rng.integers(1, 7)) for _ in range(size)]
        times = [DAY_MS * np.sort(rng.integers(10_000, 19_000, len(row))) for row in rows]
        assert_same(prompts.users(rows, times), plain.users(rows, times))
        assert_same(prompts.items(rows[0]), plain.items(rows[0]))
        few = [row[-prompts.always_fit :] for row in rows]
        times = [time[-prompts.always_fit :] for time in times]
        shortest = [int(rng.integers(1, len(row) + 1)) for row in few]
        assert_same(prompts.positions(few, times, shortest), plain.positions(few, times, shortest))


def history(*items: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array(items), np.array([(DAY + k) * DAY_MS + 5_000 for k in range(len(items))])


def build(tokenizer: Any, settings: Any, limit: int | None = None, **changes: Any) -> Prompts:
    return Prompts(tokenizer, TITLES, replace(PromptSettings.of(settings), **changes), limit)


def test_user_prompt_is_table_2b(tokenizer: Any, settings: Any) -> None:
    items, times = history(1, 2)
    prompts = build(tokenizer, settings).users([items], [times])
    assert show(tokenizer, prompts, 0) == (
        "<|begin_of_text|>This user has made a series of purchases in the following order: (History Item List: "
        "[No.1 Time: 2014/01/30 Title: Red Soap,<item 1>], [No.2 Time: 2014/01/31 Title: Blue Tent [UserOut],<item 2>]"
        "). Based on this sequence of purchases, generate user representation token:<out>"
    )


def test_user_prompt_with_representation_is_table_2c(tokenizer: Any, settings: Any) -> None:
    items, times = history(1)
    prompts = build(tokenizer, settings, user_representation=True, date_format="YYYY-MM-DD").users([items], [times])
    assert show(tokenizer, prompts, 0) == (
        "<|begin_of_text|>This is user representation from recommendation models:<user>, and this user has made a "
        "series of purchases in the following order: (History Item List: "
        "[No.1 Time: 2014-01-30 Title: Red Soap,<item 1>"
        "]). Based on this sequence of purchases and user representation, generate user representation token:<out>"
    )


def test_item_prompt_is_table_2(tokenizer: Any, settings: Any) -> None:
    prompts = build(tokenizer, settings).items(np.array([1]))
    assert show(tokenizer, prompts, 0) == (
        '<|begin_of_text|>The item title and item embedding are as follows: "Title": Red Soap,<item 1>, '
        "then generate item representation token:<out>"
    )


def test_prompts_of_text_alone_are_table_2a(tokenizer: Any, settings: Any) -> None:
    prompts = Prompts(tokenizer, TITLES, PromptSettings.of(settings).text_alone)
    items, times = history(1, 2)
    assert show(tokenizer, prompts.users([items], [times]), 0) == (
        "<|begin_of_text|>This user has made a series of purchases in the following order: (History Item List: "
        "[No.1 Time: 2014/01/30 Title: Red Soap], [No.2 Time: 2014/01/31 Title: Blue Tent [UserOut]"
        "]). Based on this sequence of purchases, generate user representation token:<out>"
    )
    assert show(tokenizer, prompts.items(np.array([1])), 0) == (
        '<|begin_of_text|>The item title is as follows: "Title": Red Soap, then generate item representation token:'
        "<out>"
    )


@pytest.mark.parametrize("explicit", [False, True])
def test_what_is_called_constant_is_the_same_text_in_all_user_prompts(
    explicit: bool, tokenizer: Any, settings: Any
) -> None:
    prompts = build(tokenizer, settings, user_representation=explicit)
    histories, times = [np.array([1]), np.array([2, 3, 1])], [np.array([0]), DAY_MS * np.array([900, 901, 902])]
    batch = prompts.users(histories, times)
    words = tokenizer.decode(batch.token_ids[0, : batch.constant])
    assert words == "<|begin_of_text|>" + (REPRESENTATION if explicit else f"{ORDER} [No.1 Time:")
    assert (batch.token_ids[0, : batch.constant] == batch.token_ids[1, : batch.constant]).all()
    assert not batch.slots[:, : batch.constant].any()
    assert prompts.positions(histories, times, [1, 1]).constant == batch.constant


def test_only_the_last_items_are_shown_and_numbered_from_one(tokenizer: Any, settings: Any) -> None:
    items, times = history(1, 2, 2, 1, 2, 1)
    prompts = build(tokenizer, settings, history=3).users([items], [times])
    assert [slot for slot in prompts.slots[0] if slot] == [1, 2, 1, OUT]
    text = show(tokenizer, prompts, 0)
    assert "[No.1 Time: 2014/02/02 Title: Red Soap," in text
    assert "[No.3 Time: 2014/02/04 Title: Red Soap," in text


def test_shuffling_keeps_numbers_and_dates_in_place(tokenizer: Any, settings: Any) -> None:
    items, times = history(1, 2)
    text = show(tokenizer, build(tokenizer, settings).users([items[::-1]], [times]), 0)
    assert "[No.1 Time: 2014/01/30 Title: Blue Tent" in text
    assert "[No.2 Time: 2014/01/31 Title: Red Soap" in text


def test_threads_that_meet_new_days_get_the_prompts_of_a_single_thread(tokenizer: Any, settings: Any) -> None:
    shared = build(tokenizer, settings)
    rng = np.random.default_rng(0)
    count, each = 8, 60
    items = rng.integers(1, 5, (count * each, 4))
    times = DAY_MS * np.sort(rng.integers(0, 30_000, (count * each, 4)), axis=1)
    start = threading.Barrier(count)

    def run(thread: int) -> list[PromptBatch]:
        start.wait()
        return [
            shared.users(items[row : row + 1], times[row : row + 1])
            for row in range(each * thread, each * (thread + 1))
        ]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(count) as threads:
            made = [prompt for prompts in threads.map(run, range(count)) for prompt in prompts]
    finally:
        sys.setswitchinterval(interval)
    alone = build(tokenizer, settings).users(items, times)
    assert_same(shared.users(items, times), alone)
    for row, prompt in enumerate(made):
        length = prompt.lengths[0]
        assert length == alone.lengths[row]
        np.testing.assert_array_equal(prompt.token_ids[0], alone.token_ids[row, :length])
        np.testing.assert_array_equal(prompt.slots[0], alone.slots[row, :length])


def test_what_is_kept_does_not_grow_with_the_days_that_were_seen(
    tokenizer: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmsrec.prompts.retrieval.DATES", 100)
    prompts = build(tokenizer, settings)

    def kept() -> int:
        """Numbers in arrays, and remembered dates."""
        arrays = [value for value in vars(prompts._pieces).values() if isinstance(value, np.ndarray)]
        return sum(array.size for array in arrays) + prompts._date_tokens.cache_info().currsize

    sizes = []
    for days in np.arange(10_000).reshape(-1, 25, 4):
        prompts.users([np.array([1, 2, 1, 2])] * 25, list(DAY_MS * days))
        sizes.append(kept())
    assert sizes[0] == sizes[-1]


def test_right_padding_and_lengths(tokenizer: Any, settings: Any) -> None:
    short, long = history(1), history(1, 2, 1)
    both = build(tokenizer, settings).users([short[0], long[0]], [short[1], long[1]])
    alone = build(tokenizer, settings).users([short[0]], [short[1]])
    length = alone.lengths[0]
    assert both.lengths[0] == length < both.lengths[1] == both.token_ids.shape[1]
    np.testing.assert_array_equal(both.token_ids[0, :length], alone.token_ids[0])
    assert not both.token_ids[0, length:].any()
    assert not both.slots[0, length:].any()


@pytest.mark.parametrize("room", range(90, 200, 10))
def test_an_over_long_prompt_loses_old_items_then_title_text_never_the_read_out(
    tokenizer: Any, settings: Any, room: int
) -> None:
    items, times = history(1, 2, 1, 4)
    try:
        prompts = build(tokenizer, settings, max_tokens=room, title_tokens=100).users([items], [times])
    except ParamsError as error:
        assert "model.max_tokens" in str(error)
        return
    assert prompts.lengths[0] <= room
    kept = [slot for slot in prompts.slots[0] if slot]
    assert kept[-1] == OUT
    assert kept[-2] == 4, "the newest item stays"
    assert kept[:-1] == items.tolist()[-len(kept) + 1 :], "the oldest go first"
    whole = tokenizer.decode(tokenizer(" " + TITLES[3], add_special_tokens=False)["input_ids"][:100])
    if f"Title:{whole},<item 4>" not in show(tokenizer, prompts, 0):
        assert len(kept) == 2, "a title is cut only when no older item is left to drop"
        assert prompts.lengths[0] == room, "and only as far as it must be"


def test_a_limit_without_room_is_refused(tokenizer: Any, settings: Any) -> None:
    with pytest.raises(ParamsError, match=r"model\.max_tokens.*400.*backbone takes 20"):
        build(tokenizer, settings, limit=20)


def test_titles_are_cut_to_their_limit(tokenizer: Any, settings: Any) -> None:
    items, whole = np.array([4]), len(tokenizer(" " + TITLES[3])["input_ids"]) - 1
    cut = build(tokenizer, settings, title_tokens=3).items(items)
    full = build(tokenizer, settings, title_tokens=300, max_tokens=1000).items(items)
    assert full.lengths[0] - cut.lengths[0] == whole - 3


def test_a_title_is_only_text(tokenizer: Any, settings: Any) -> None:
    special = set(tokenizer.all_special_ids)
    prefix = build(tokenizer, settings).item_prefixes(np.array([3]))[0][0].tolist()
    assert special & set(prefix) == {tokenizer.bos_token_id}
    assert prefix.count(tokenizer.bos_token_id) == 1
    tokens = plain_text_encoder(tokenizer)([TITLES[2]])[0]
    assert tokenizer.decode(tokens) == TITLES[2]
    assert special & set(tokenizer(TITLES[2], add_special_tokens=False)["input_ids"]), "else this test shows nothing"


def test_a_title_is_only_text_for_a_word_piece_encoder_and_added_words(settings: Any) -> None:
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *'abcdefghijklmnopqrstuvwxyz0123456789[]:,./()"<>|_']
    words += [f"##{character}" for character in words[4:]]
    inner = Tokenizer(models.WordPiece({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    tokenizer.add_tokens(["<think>"])
    added = set(tokenizer.added_tokens_decoder)
    prompts = Prompts(tokenizer, ["a [SEP] b <think> [sep] [CLS]"], PromptSettings.of(settings))
    ids = prompts.items(np.array([1])).token_ids[0]
    assert ids[0] == 1
    assert ids[-1] == 2, "the encoder's own frame stays"
    assert not added & set(plain_text_encoder(tokenizer)(["a [SEP] b <think> [CLS]"])[0])
    assert prompts.items(np.array([1])).slots[0].tolist().index(OUT) == len(ids) - 2


def test_length_estimate_orders_prompts(tokenizer: Any, settings: Any) -> None:
    prompts = build(tokenizer, settings)
    short, long = history(1), history(1, 4, 2)
    estimate = prompts.user_lengths([short[0], long[0]])
    assert estimate[0] < estimate[1]


def test_one_item_always_fits_however_tight_the_limit(tokenizer: Any, settings: Any) -> None:
    """With none, cutting sequences into histories of at most so many items would never end."""
    limits = []
    for room in range(60, 300, 5):
        try:
            prompts = build(tokenizer, settings, max_tokens=room, title_tokens=100)
        except ParamsError:
            continue
        limits.append(prompts.always_fit)
        items, times = history(*[4] * prompts.always_fit)
        batch = prompts.positions([items], [times], [1])
        ending = len(prompts.user_tail) + 1
        assert (batch.slots[0] == 4).sum() == prompts.always_fit
        assert batch.lengths[0] - ending * (prompts.always_fit - 1) <= room, "the longest history's own prompt"
    assert limits[0] == 1
    assert limits == sorted(limits)
