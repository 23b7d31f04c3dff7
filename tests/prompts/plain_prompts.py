"""Prompts put together from lists, token by token: the slow twin of `llmsrec.prompts.retrieval`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmsrec.prompts import retrieval as prompts
from llmsrec.prompts.retrieval import DAY_MS, NUMBER, OUT, USER_REPRESENTATION, PromptBatch, plain_text_encoder


class PlainPrompts:
    """As `Prompts`, for settings that leave room for an item."""

    def __init__(self, tokenizer: Any, titles: Sequence[str], settings: Any, limit: int | None = None) -> None:
        self.settings = settings
        self.max_tokens = min(settings.max_tokens, limit or settings.max_tokens)
        self.encode = plain_text_encoder(tokenizer)
        self.begin, self.end = prompts.special_tokens(tokenizer)
        self.titles = ["", *titles]

    def words(self, text: str) -> list[int]:
        return self.encode([text])[0]

    def title(self, item: int) -> list[int]:
        return self.words(f" {self.titles[item]}")[: self.settings.title_tokens]

    def users(self, items: Sequence[np.ndarray], timestamps: Sequence[np.ndarray]) -> PromptBatch:
        return pad([self.user(*history) for history in zip(items, timestamps, strict=True)])

    def positions(
        self, items: Sequence[np.ndarray], timestamps: Sequence[np.ndarray], shortest: Sequence[int]
    ) -> PromptBatch:
        return pad([self.trunk(*row) for row in zip(items, timestamps, shortest, strict=True)])

    def items(self, item_ids: np.ndarray) -> PromptBatch:
        rows = []
        for item in item_ids.tolist():
            embedded = self.settings.item_embedding
            head = self.begin + self.words(prompts.ITEM if embedded else prompts.ITEM_A)
            tail, comma = self.words(prompts.ITEM_GENERATE), self.words(",") * embedded
            room = self.max_tokens - len(head + comma + tail + self.end) - 1 - embedded
            text = head + self.title(item)[:room] + comma
            slots = [0] * len(text) + [item] * embedded + [0] * len(tail) + [OUT] + [0] * len(self.end)
            rows.append(([*text, *[0] * embedded, *tail, 0, *self.end], slots))
        return pad(rows)

    def ending(self) -> tuple[list[int], list[int]]:
        tail = self.words(prompts.GENERATE_C if self.settings.user_representation else prompts.GENERATE)
        return [*tail, 0, *self.end], [0] * len(tail) + [OUT] + [0] * len(self.end)

    def user(self, items: np.ndarray, timestamps: np.ndarray) -> tuple[list[int], list[int]]:
        """Drops the oldest items, then title text, until the prompt fits."""
        tokens, slots = list(self.begin), [0] * len(self.begin)
        order = prompts.ORDER
        if self.settings.user_representation:
            tokens += self.words(prompts.REPRESENTATION)
            slots += [0] * len(self.words(prompts.REPRESENTATION)) + [USER_REPRESENTATION]
            tokens, order = [*tokens, 0], prompts.ORDER_C
        tokens, slots = tokens + self.words(order), slots + [0] * len(self.words(order))
        tail, tail_slots = self.ending()
        self.ends = list[int]()  # where each event ends
        history = list(zip(items.tolist(), timestamps.tolist(), strict=True))[-self.settings.history :]
        while True:
            events = [self.event(k, *event) for k, event in enumerate(history, start=1)]
            excess = len(tokens) + sum(len(before + title + after) for before, title, after in events)
            excess += len(tail) - self.max_tokens
            if excess <= 0 or len(history) == 1:
                break
            history = history[1:]
        for (item, _), (before, title, after) in zip(history, events, strict=True):
            text = before + title[: len(title) - max(0, excess)] + after
            self.ends.append(len(tokens) + len(text))
            marks = [0] * (len(text) - 1) + [item] if self.settings.item_embedding else [0] * len(text)
            tokens, slots = tokens + text, slots + marks
        return tokens + tail, slots + tail_slots

    def event(self, number: int, item: int, time: int) -> tuple[list[int], list[int], list[int]]:
        mark = self.words("]," * (number > 1) + NUMBER.format(number))
        date = self.words(prompts._date(time // DAY_MS, self.settings.date_format))
        after = [*self.words(","), 0] if self.settings.item_embedding else []
        return mark + date + self.words(prompts.TITLE), self.title(item), after

    def trunk(self, items: np.ndarray, timestamps: np.ndarray, shortest: int) -> tuple[list[int], ...]:
        tokens, slots = self.user(items, timestamps)
        tail, tail_slots = self.ending()
        tokens, slots = tokens[: -len(tail)], slots[: -len(tail)]
        ends = self.ends[shortest - 1 :]
        branches, visible = [0] * len(tokens), [0] * len(tokens)
        for branch, end in enumerate(ends, start=1):
            tokens, slots = tokens + tail, slots + tail_slots
            branches, visible = branches + [branch] * len(tail), visible + [end] * len(tail)
        return tokens, slots, branches, visible


def pad(rows: Sequence[tuple[list[int], ...]]) -> PromptBatch:
    """Rows of two lists (token ids, slots) or four (with branches and visible), padded with 0 on the right."""
    lengths = np.array([len(row[0]) for row in rows], dtype=np.int64)
    columns = np.zeros((len(rows[0]), len(rows), lengths.max()), dtype=np.int64)
    for number, row in enumerate(rows):
        for column, values in zip(columns, row, strict=True):
            column[number, : len(values)] = values
    return PromptBatch(columns[0], columns[1], lengths, *columns[2:])
