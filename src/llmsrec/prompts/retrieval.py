"""The prompts of Table 2 as token ids with slots for what is not text.

A prompt is put together from pieces that are tokenised once: the fixed words, each title, each date. Item embeddings,
user representations and the tokens [UserOut] and [ItemOut] are vectors, not words: the tokenizer never sees them, and a
title that spells one of them, or a special token of the tokenizer, is tokenised as plain characters.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from llmsrec.errors import ParamsError
from llmsrec.prompts.pieces import OUT, USER_REPRESENTATION, Part, Pieces, PromptBatch

# The fixed words of Table 2. (c) says more than (b) about the user representation, (a) knows titles alone.
REPRESENTATION = "This is user representation from recommendation models:"
ORDER = "This user has made a series of purchases in the following order: (History Item List:"
ORDER_C = ", and this user has made a series of purchases in the following order: (History Item List:"
NUMBER = " [No.{} Time:"
TITLE = " Title:"
GENERATE = "]). Based on this sequence of purchases, generate user representation token:"
GENERATE_C = "]). Based on this sequence of purchases and user representation, generate user representation token:"
ITEM = 'The item title and item embedding are as follows: "Title":'
ITEM_A = 'The item title is as follows: "Title":'
ITEM_GENERATE = ", then generate item representation token:"
PHRASES = (REPRESENTATION, ORDER, ORDER_C, TITLE, GENERATE, GENERATE_C, ITEM, ITEM_GENERATE)

DAY_MS = 86_400_000
LONGEST_DATE = 12  # tokens of " YYYY/MM/DD", a character each at worst
DATES = 1 << 14  # days whose tokens are remembered: 45 years, so that training meets each once
DATE_FORMATS = {"YYYY/MM/DD": "%Y/%m/%d", "YYYY-MM-DD": "%Y-%m-%d"}


@dataclass(frozen=True)
class PromptSettings:
    """What prompts hold, and how much of it.

    Attributes:
        history: the last items of a user.
        date_format: a key of `DATE_FORMATS`.
        title_tokens: a longer title is cut.
        max_tokens: a longer prompt loses its oldest items.
        user_representation: whether the user's vector comes first: Table 2 (c).
        item_embedding: whether each title is followed by its item's embedding: Table 2 (b) and (c), else (a).
    """

    history: int
    date_format: str
    title_tokens: int
    max_tokens: int
    user_representation: bool
    item_embedding: bool = True

    @classmethod
    def of(cls, settings: Any, item_embedding: bool = True) -> "PromptSettings":
        """From params.yaml's `model` section."""
        shared = {field.name: getattr(settings, field.name) for field in fields(cls) if field.name != "item_embedding"}
        return cls(**shared, item_embedding=item_embedding)

    @property
    def text_alone(self) -> "PromptSettings":
        """The same prompts without any vector of the recommender: Table 2 (a)."""
        return replace(self, user_representation=False, item_embedding=False)


class Prompts:
    """Builds user and item prompts for one tokenizer and one catalogue.

    Fixed words and titles are tokenised once, into one flat array of pieces; a slot is a piece of one position. A batch
    of prompts is a list of these pieces and of its own dates, put together by indexing. Threads may share one: nothing
    changes but a memo of bounded size of the tokens of dates.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        titles: title of item 1, 2, ..., I.
        settings: what they hold: Table 2 (a), (b) or (c).
        limit: the backbone's own longest input in tokens, if it has one.

    Attributes:
        settings: as given.
        user_tail, item_tail: the tokens between a prompt's last title or item embedding and its out token.
        user_word: the last token before [UserOut] in Table 2 (b); (c) ends with the same word, but the embedded
            backbone's tokenizer makes one token of each ending, and has met that of (b) alone.
        title_sizes: `[I + 1]` tokens of each title, as far as it is kept; 0 for item 0.
        always_fit: so many history items lose nothing to the limit in tokens; 1 or more.

    Raises:
        ParamsError: `model.max_tokens` (or the backbone's limit) leaves no room for one item and the read-out token.
    """

    def __init__(
        self, tokenizer: Any, titles: Sequence[str], settings: PromptSettings, limit: int | None = None
    ) -> None:
        self.settings, self.history = settings, settings.history
        self.max_tokens = min(settings.max_tokens, limit or settings.max_tokens)
        encode = plain_text_encoder(tokenizer)
        self._date_tokens = lru_cache(DATES)(lambda day: encode([_date(day, settings.date_format)])[0])
        begin, end = special_tokens(tokenizer)
        explicit, embedded = settings.user_representation, settings.item_embedding
        user_head, self.user_tail, usual = encode(
            [*([ORDER_C, GENERATE_C] if explicit else [ORDER, GENERATE]), GENERATE]
        )
        self.user_word = usual[-1]
        first, *others = [NUMBER.format(k) for k in range(1, self.history + 1)]
        numbers = encode([first, *(f"],{number}" for number in others)])
        comma_text, item_text = (",", ITEM) if embedded else ("", ITEM_A)
        title_word, comma, item_head, self.item_tail = encode([TITLE, comma_text, item_text, ITEM_GENERATE])
        cut = [tokens[: settings.title_tokens] for tokens in encode([f" {title}" for title in titles])]

        self._pieces = pieces = Pieces()
        representation = pieces.add([begin + encode([REPRESENTATION])[0]]) if explicit else pieces.add([begin])
        self._head = [*representation, *pieces.add_slots([USER_REPRESENTATION] * explicit), *pieces.add([user_head])]
        self._numbers = pieces.add(numbers)
        shared = representation if explicit else [*self._head, self._numbers[0]]
        self._constant = int(pieces.sizes[shared].sum())
        self._title_word, self._comma, self._item_head = pieces.add([title_word, comma, begin + item_head])
        # Items count from 1: the title of item i is the piece `_titles + i`, its slot, if it has one, `_items + i`.
        self._count = len(cut)
        self._titles = pieces.add(cut)[0] - 1
        self._items = pieces.add_slots(range(1, self._count + 1))[0] - 1 if embedded else None
        (out,), (closing,) = pieces.add_slots([OUT]), pieces.add([end])
        self._user_end = [*pieces.add([self.user_tail]), out, closing]
        self._item_end = [*pieces.add([self.item_tail]), out, closing]

        sizes, self.title_sizes = pieces.sizes, np.array([0, *map(len, cut)])
        self._number_sizes = sizes[self._numbers]
        self._event_fixed = int(sizes[self._title_word] + sizes[self._comma]) + embedded
        fixed = int(sizes[[*self._head, *self._user_end]].sum())
        self._room = self.max_tokens - fixed
        self._item_room = self.max_tokens - int(sizes[[self._item_head, self._comma, *self._item_end]].sum()) - embedded
        least = self._room - int(self._number_sizes[0]) - self._event_fixed - LONGEST_DATE
        if min(least, self._item_room) < 1:
            raise ParamsError(
                f"`model.max_tokens` is {settings.max_tokens} and the backbone takes {limit or 'any number of'} "
                f"tokens: no room for a title beside the {fixed + LONGEST_DATE} tokens of the prompt itself. Raise "
                "`model.max_tokens`, or choose a backbone with longer inputs."
            )
        # So many history items fit whatever they are (one always does, its title cut if need be).
        widest = int(self._number_sizes.max() + self.title_sizes.max()) + self._event_fixed + LONGEST_DATE
        self.always_fit = max(1, min(self.history, self._room // widest))

    def users(self, items: Sequence[np.ndarray], timestamps: Sequence[np.ndarray]) -> PromptBatch:
        """User prompts of Table 2: each history's last items, as many as fit, oldest first.

        Args:
            items: per user the item ids of the history, oldest first; one item at least.
            timestamps: per user the times in ms since epoch; shown as dates, kept in place when items are shuffled.
        """
        trunk, dates = self._trunk(items, timestamps)
        rows = np.arange(len(items))
        parts = [trunk, Part.of(self._user_end, rows, self._pieces)]
        owner, places = self._ends(trunk)
        ends = np.split(places, np.searchsorted(owner, rows[1:]))
        return replace(self._pieces.batch(len(items), parts, dates, constant=self._constant), ends=ends)

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
        trunk, dates = self._trunk(items, timestamps)
        owner, places = self._ends(trunk)
        number = np.arange(len(owner)) - np.searchsorted(owner, owner) + 1  # of a history's items, counted from 1
        first = np.asarray(shortest)[owner]
        kept = number >= first
        endings = Part.of(self._user_end, owner[kept], self._pieces, (number - first + 1)[kept], places[kept])
        return self._pieces.batch(len(items), [trunk, endings], dates, branched=True, constant=self._constant)

    def items(self, item_ids: np.ndarray) -> PromptBatch:
        """Item prompts of Table 2: title, item embedding (but for (a)), [ItemOut]."""
        rows = np.arange(len(item_ids))
        parts = [self._item_prefixes(item_ids)]
        if self._items is not None:
            parts.append(Part.of(self._items + item_ids[:, None], rows, self._pieces))
        parts.append(Part.of(self._item_end, rows, self._pieces))
        return self._pieces.batch(len(item_ids), parts)

    def item_prefixes(self, item_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of item prompts before the embedding, or before `item_tail` where there is none, which depend on
        nothing that is trained.

        Returns:
            `[n, L]` int64, padded with 0 on the right, and `[n]` lengths.
        """
        batch = self._pieces.batch(len(item_ids), [self._item_prefixes(item_ids)])
        return batch.token_ids, batch.lengths

    def user_lengths(self, items: Sequence[np.ndarray]) -> np.ndarray:
        """`[B]` a cheap estimate of each user prompt's length, for putting prompts of like length together."""
        recent = [history[-self.history :] for history in items]
        counts = np.array([len(history) for history in recent])
        total = np.concatenate([[0], self.title_sizes[np.concatenate(recent)].cumsum()])
        ends = counts.cumsum()
        return total[ends] - total[ends - counts] + (int(self._number_sizes[0]) + self._event_fixed + 6) * counts

    def _trunk(
        self, items: Sequence[np.ndarray], timestamps: Sequence[np.ndarray], room: int | np.ndarray | None = None
    ) -> tuple["Part", list[list[int]]]:
        """User prompts up to the last event's end, and the tokens of their dates, which are pieces of this batch.

        They lose the oldest items, then title text, until they fit.

        Args:
            room: tokens that a history may take, for all or `[B]`; what the prompts of Table 2 leave if None.
        """
        room = np.broadcast_to(self._room if room is None else room, len(items))
        recent = [history[-self.history :] for history in items]
        lengths = np.array([len(history) for history in recent])
        event = np.concatenate(recent).astype(np.int64)
        days = np.concatenate([times[-self.history :] for times in timestamps]) // DAY_MS
        distinct, date = np.unique(days, return_inverse=True)
        dates = [self._date_tokens(day) for day in distinct.tolist()]
        date_sizes = np.array([len(tokens) for tokens in dates])
        rows = np.repeat(np.arange(len(recent)), lengths)
        age = np.repeat(lengths.cumsum(), lengths) - np.arange(len(event)) - 1  # 0 is the newest

        # A prompt of its n newest events holds their texts and the first n numbers.
        texts = np.zeros((len(recent), self.history), dtype=np.int64)
        texts[rows, age] = self.title_sizes[event] + date_sizes[date] + self._event_fixed
        needed = texts.cumsum(axis=1) + self._number_sizes.cumsum()
        fit = np.maximum(1, (needed <= room[:, None]).sum(axis=1))
        kept = age < fit[rows]
        event, date, rows, age = event[kept], date[kept], rows[kept], age[kept]
        number = np.minimum(lengths, fit)[rows] - age - 1

        columns = [
            np.asarray(self._numbers)[number],
            np.zeros(len(event), dtype=np.int64),  # its date: see below
            np.full(len(event), self._title_word),
            self._titles + event,
        ]
        if self._items is not None:
            columns += [np.full(len(event), self._comma), self._items + event]
        pieces = np.stack(columns, axis=1)
        sizes = self._pieces.sizes[pieces]
        pieces[:, 1], sizes[:, 1] = len(self._pieces.sizes) + date, date_sizes[date]
        over = np.maximum(0, needed[:, 0] - room)[rows]  # of one event that does not fit
        sizes[:, 3] = self.title_sizes[event] - over
        texts_part = Part(pieces.ravel(), sizes.ravel(), np.repeat(rows, pieces.shape[1]))
        return Part.join([Part.of(self._head, np.arange(len(recent)), self._pieces), texts_part]), dates

    def _ends(self, trunk: "Part") -> tuple[np.ndarray, np.ndarray]:
        """`[n]` prompts of all events, ascending, and the positions right behind these in their prompts."""
        last = self._titles if self._items is None else self._items  # what an event ends with
        ends = np.flatnonzero((trunk.pieces > last) & (trunk.pieces <= last + self._count))
        return trunk.rows[ends], trunk.places()[ends]

    def _item_prefixes(self, item_ids: np.ndarray) -> "Part":
        head, comma = (np.full(len(item_ids), piece) for piece in (self._item_head, self._comma))
        pieces = np.stack([head, self._titles + item_ids, comma], axis=1)
        part = Part.of(pieces, np.arange(len(item_ids)), self._pieces)
        part.sizes[1::3] = np.minimum(part.sizes[1::3], self._item_room)
        return part


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


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that this tokenizer puts before and after a text, such as [CLS] and [SEP]."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next(k for k in range(len(framed)) if framed[k : k + len(plain)] == plain)
    return framed[:start], framed[start + len(plain) :]


def _date(day: int, date_format: str) -> str:
    moment = datetime.fromtimestamp(day * DAY_MS / 1000, tz=UTC)
    return " " + moment.strftime(DATE_FORMATS[date_format])
