"""The prompts of Table 2 as token ids with slots for what is not text.

A prompt is put together from pieces that are tokenised once: the fixed words, each title, each date. Item embeddings,
user representations and the tokens [UserOut] and [ItemOut] are vectors, not words: the tokenizer never sees them, and a
title that spells one of them, or a special token of the tokenizer, is tokenised as plain characters.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from llmsrec.errors import ParamsError

OUT = -1  # slot of [UserOut] or [ItemOut], the position that is read out
USER_REPRESENTATION = -2  # slot of [User Representation], Table 2 (c)

# The fixed words of Table 2. (b) and (c) differ in what (c) adds about the user representation.
REPRESENTATION = "This is user representation from recommendation models:"
ORDER = "This user has made a series of purchases in the following order: (History Item List:"
ORDER_C = ", and this user has made a series of purchases in the following order: (History Item List:"
NUMBER = " [No.{} Time:"
TITLE = " Title:"
GENERATE = "]). Based on this sequence of purchases, generate user representation token:"
GENERATE_C = "]). Based on this sequence of purchases and user representation, generate user representation token:"
ITEM = 'The item title and item embedding are as follows: "Title":'
ITEM_GENERATE = ", then generate item representation token:"
PHRASES = (REPRESENTATION, ORDER, ORDER_C, TITLE, GENERATE, GENERATE_C, ITEM, ITEM_GENERATE)

DAY_MS = 86_400_000
DATE_FORMATS = {"YYYY/MM/DD": "%Y/%m/%d", "YYYY-MM-DD": "%Y-%m-%d"}


class Settings(Protocol):
    """What prompts read of params.yaml's `model` section."""

    @property
    def history(self) -> int: ...
    @property
    def date_format(self) -> Any: ...
    @property
    def title_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def user_representation(self) -> bool: ...


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
    """

    token_ids: np.ndarray
    slots: np.ndarray
    lengths: np.ndarray
    branches: np.ndarray | None = None
    visible: np.ndarray | None = None


class Prompts:
    """Builds user and item prompts for one tokenizer and one catalogue.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        titles: title of item 1, 2, ..., I.
        settings: number of history items, date format, limits in tokens, Table 2 (b) or (c).
        limit: the backbone's own longest input in tokens, if it has one.

    Attributes:
        user_tail, item_tail: the tokens between a prompt's last item embedding and its out token.
        always_fit: so many history items lose nothing to the limit in tokens; 1 or more.

    Raises:
        ParamsError: `model.max_tokens` (or the backbone's limit) leaves no room for one item and the read-out token.
    """

    def __init__(self, tokenizer: Any, titles: Sequence[str], settings: Settings, limit: int | None = None) -> None:
        self.history = settings.history
        self.max_tokens = min(settings.max_tokens, limit or settings.max_tokens)
        encode = plain_text_encoder(tokenizer)
        begin, end = _frame(tokenizer)
        explicit = settings.user_representation
        self._user_begin = begin + encode([REPRESENTATION])[0] * explicit
        self._user_slots = [USER_REPRESENTATION] * explicit
        self._user_head, self.user_tail = encode([ORDER_C, GENERATE_C] if explicit else [ORDER, GENERATE])
        first, *others = [NUMBER.format(k) for k in range(1, self.history + 1)]
        self._numbers = encode([first, *(f"],{number}" for number in others)])
        self._title_word, self._comma, item_head, self.item_tail = encode([TITLE, ",", ITEM, ITEM_GENERATE])
        self._item_head = begin + item_head
        self._end = end
        self._date = cache(lambda day: encode([_date(day, settings.date_format)])[0])
        self._titles = [[], *(tokens[: settings.title_tokens] for tokens in encode([f" {title}" for title in titles]))]
        self._title_sizes = np.array([len(title) for title in self._titles])
        longest_date = 12  # tokens of " YYYY/MM/DD", a character each at worst
        per_item = max(len(number) for number in self._numbers) + longest_date + len(self._title_word + self._comma) + 1
        fixed = len(self._user_begin + self._user_slots + self._user_head + self.user_tail) + len(end) + 2
        room = self.max_tokens - fixed - len(self._numbers[0] + self._title_word + self._comma) - longest_date
        self._item_room = self.max_tokens - len(self._item_head + self._comma + self.item_tail + end) - 2
        if min(room, self._item_room) < 1:
            raise ParamsError(
                f"`model.max_tokens` is {settings.max_tokens} and the backbone takes {limit or 'any number of'} "
                f"tokens: no room for a title beside the {fixed + longest_date} tokens of the prompt itself. Raise "
                "`model.max_tokens`, or choose a backbone with longer inputs."
            )
        # So many history items fit whatever they are (one always does, its title cut if need be).
        widest = per_item + int(self._title_sizes.max())
        self.always_fit = max(1, min(self.history, (self.max_tokens - fixed) // widest))

    def users(self, items: Sequence[np.ndarray], timestamps: Sequence[np.ndarray]) -> PromptBatch:
        """User prompts of Table 2 (b) or (c): each history's last items, as many as fit, oldest first.

        Args:
            items: per user the item ids of the history, oldest first; one item at least.
            timestamps: per user the times in ms since epoch; shown as dates, kept in place when items are shuffled.
        """
        return _pad([self._user(*history) for history in zip(items, timestamps, strict=True)])

    def positions(
        self, items: Sequence[np.ndarray], timestamps: Sequence[np.ndarray], shortest: Sequence[int]
    ) -> PromptBatch:
        """User prompts of several histories at once: of the first `shortest`, `shortest + 1`, ... items, up to all.

        They begin alike, so the longest one's text is the trunk, and each history's ending is a branch of it. Row by
        row, the out tokens come in the order of the histories' lengths.

        Args:
            items: per user at most `always_fit` item ids.
            timestamps: per user the times in ms.
            shortest: per user the number of items of the shortest history, 1 or more.
        """
        return _pad([self._trunk(*row) for row in zip(items, timestamps, shortest, strict=True)])

    def items(self, item_ids: np.ndarray) -> PromptBatch:
        """Item prompts of Table 2: title, item embedding, [ItemOut]."""
        prompts = []
        for item in item_ids.tolist():
            tail = [*self.item_tail, 0, *self._end]
            prefix = self.item_prefix(item)
            slots = [0] * len(prefix) + [item] + [0] * len(self.item_tail) + [OUT] + [0] * len(self._end)
            prompts.append(([*prefix, 0, *tail], slots))
        return _pad(prompts)

    def item_prefix(self, item: int) -> list[int]:
        """The tokens of an item prompt before its embedding; they depend on nothing that is trained."""
        return [*self._item_head, *self._titles[item][: self._item_room], *self._comma]

    def user_lengths(self, items: Sequence[np.ndarray]) -> np.ndarray:
        """`[B]` a cheap estimate of each user prompt's length, for putting prompts of like length together."""
        per_item = len(self._numbers[0] + self._title_word + self._comma) + 7
        recent = [history[-self.history :] for history in items]
        return np.array([self._title_sizes[history].sum() + per_item * len(history) for history in recent])

    def _user(self, items: np.ndarray, timestamps: np.ndarray) -> "_Rows":
        """Token ids and slots of one user; drops the oldest items, then title text, until the prompt fits."""
        begin = self._user_begin + [0] * len(self._user_slots) + self._user_head
        room = self.max_tokens - len(begin) - len(self.user_tail) - 1 - len(self._end)
        dates = [self._date(int(time) // DAY_MS) for time in timestamps[-self.history :]]
        history = list(zip(items[-self.history :].tolist(), dates, strict=True))
        sizes = [self._event_size(k, item, date) for k, (item, date) in enumerate(history)]
        while len(history) > 1 and sum(sizes) > room:
            history = history[1:]
            sizes = [self._event_size(k, item, date) for k, (item, date) in enumerate(history)]
        cut = max(0, sum(sizes) - room)
        tokens = list(begin)
        slots = [0] * len(self._user_begin) + self._user_slots + [0] * len(self._user_head)
        for number, (item, date) in zip(self._numbers, history, strict=False):
            title = self._titles[item]
            text = [*number, *date, *self._title_word, *title[: len(title) - cut], *self._comma]
            tokens += [*text, 0]
            slots += [0] * len(text) + [item]
        tokens += [*self.user_tail, 0, *self._end]
        slots += [0] * len(self.user_tail) + [OUT] + [0] * len(self._end)
        return tokens, slots

    def _trunk(self, items: np.ndarray, timestamps: np.ndarray, shortest: int) -> "_Rows":
        """Token ids, slots, branches and visible trunk lengths of one user's histories."""
        tokens, slots = self._user(items, timestamps)
        ending = len(self.user_tail) + 1 + len(self._end)
        tail, tail_slots = tokens[-ending:], slots[-ending:]
        tokens, slots = tokens[:-ending], slots[:-ending]
        ends = [place + 1 for place, slot in enumerate(slots) if slot > 0][shortest - 1 :]
        branches, visible = [0] * len(tokens), [0] * len(tokens)
        for branch, end in enumerate(ends, start=1):
            tokens, slots = tokens + tail, slots + tail_slots
            branches += [branch] * ending
            visible += [end] * ending
        return tokens, slots, branches, visible

    def _event_size(self, position: int, item: int, date: list[int]) -> int:
        return len(self._numbers[position]) + len(date) + len(self._title_word) + len(self._titles[item]) + 1 + 1


def plain_text_encoder(tokenizer: Any) -> Callable[[Sequence[str]], list[list[int]]]:
    """A function from texts to token ids in which no special or added token can appear.

    Where a text spells such a token, it is cut inside that spelling and the parts are tokenised one by one.
    """
    spelled = [token.content for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1]
    pattern = re.compile("|".join(re.escape(text) for text in sorted(spelled, key=len, reverse=True)), re.IGNORECASE)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        parts, owner = [], []
        for index, text in enumerate(texts):
            cuts = [match.start() + 1 for match in pattern.finditer(text)] if spelled else []
            edges = [0, *cuts, len(text)]
            parts += [text[a:b] for a, b in pairwise(edges)]
            owner += [index] * (len(edges) - 1)
        encoded: list[list[int]] = [[] for _ in texts]
        if parts:
            ids = tokenizer(parts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
            for index, tokens in zip(owner, ids, strict=True):
                encoded[index] += tokens
        return encoded

    return encode


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that this tokenizer puts before and after a text, such as [CLS] and [SEP]."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next(k for k in range(len(framed)) if framed[k : k + len(plain)] == plain)
    return framed[:start], framed[start + len(plain) :]


def _date(day: int, date_format: str) -> str:
    moment = datetime.fromtimestamp(day * DAY_MS / 1000, tz=UTC)
    return " " + moment.strftime(DATE_FORMATS[date_format])


_Rows = tuple[list[int], ...]


def _pad(prompts: Sequence[_Rows]) -> PromptBatch:
    """Prompts of two lists (token ids, slots) or four (with branches and visible), padded with 0 on the right."""
    lengths = np.array([len(prompt[0]) for prompt in prompts], dtype=np.int64)
    columns = np.zeros((len(prompts[0]), len(prompts), lengths.max()), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        for column, values in zip(columns, prompt, strict=True):
            column[row, : len(values)] = values
    token_ids, slots, *structure = columns
    return PromptBatch(token_ids, slots, lengths, *structure)
