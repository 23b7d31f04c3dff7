"""The prompt of Table 1: a history, 20 candidates to choose from, and the title that answers it.

It begins as the user prompt of Table 2 does, whose pieces it is put together from; see `prompts.Prompts`. The answer is
a candidate's title, as it is shown, and the token that ends a text.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmsrec.data.titles import UNTITLED
from llmsrec.errors import DataError, ParamsError
from llmsrec.prompts.answers import Answers
from llmsrec.prompts.pieces import Part, PromptBatch
from llmsrec.prompts.retrieval import LONGEST_DATE, Prompts, PromptSettings, plain_text_encoder

# The fixed words of Table 1 behind the history, and what stands between two candidates, which often hold commas.
CHOOSE = ']). Choose one "Title" to recommend for this user to buy next from the following item "Title" set: ['
BETWEEN, CHOSEN = ";", "]."


class TitlePrompts(Prompts):
    """Builds prompts that ask for a title, and their answers.

    Args:
        tokenizer, titles, limit: as in `Prompts`. A title without a text is shown as `UNTITLED`.
        settings: as in `Prompts`. Where 20 of the longest titles would leave no room for an item of the history, all
            titles are cut further, alike.
        count: candidates of each prompt.

    Attributes:
        end: the token that ends an answer.
        longest: tokens of the longest answer, `end` among them.

    Raises:
        ParamsError: `model.max_tokens` (or the backbone's limit) leaves no room for a token of each candidate's title.
        DataError: the tokenizer has no token that ends a text.
    """

    def __init__(
        self, tokenizer: Any, titles: Sequence[str], settings: PromptSettings, limit: int | None, count: int
    ) -> None:
        titles = [title if title.strip() else UNTITLED for title in titles]
        super().__init__(tokenizer, titles, settings, limit)
        if tokenizer.eos_token_id is None:
            raise DataError(
                f"the tokenizer of the backbone ({type(tokenizer).__name__}) has no token that ends a text "
                "(`eos_token`), so a title would have no end; choose another `backbone.model`."
            )
        self.end = int(tokenizer.eos_token_id)
        encode, pieces = plain_text_encoder(tokenizer), self._pieces
        self._choose, self._between, self._chosen = pieces.add(encode([CHOOSE, BETWEEN, CHOSEN]))
        self._shown_fixed = (
            int(pieces.sizes[self._between]) + int(pieces.sizes[self._comma]) + (self._items is not None)
        )
        self._fixed = int(pieces.sizes[[*self._head, self._choose, self._chosen]].sum())
        self._cut = self._longest_cut(settings.max_tokens, limit, count)
        if self._cut < self.title_sizes.max():
            print(f"titles are cut to {self._cut} tokens, so that {count} of them fit beside a history", flush=True)
            self.title_sizes = np.minimum(self.title_sizes, self._cut)
        self.longest = int(self.title_sizes.max()) + 1
        self._answers = np.zeros((len(self.title_sizes), self.longest), dtype=np.int32)
        real = np.arange(self.longest) < self.title_sizes[:, None]
        self._answers[real] = self._title_tokens(self.title_sizes)
        self._answers[np.arange(len(self._answers)), self.title_sizes] = self.end

    def ask(self, items: Sequence[np.ndarray], timestamps: Sequence[np.ndarray], candidates: np.ndarray) -> PromptBatch:
        """Prompts of Table 1: as much of each history as fits, oldest first, and all candidates, whatever it takes.

        Args:
            items, timestamps: as in `Prompts.users`.
            candidates: `[B, C]` item ids, in the order in which they are shown.
        """
        count, rows = candidates.shape[1], np.arange(len(items))
        shown = (self.title_sizes[candidates] + self._shown_fixed).sum(axis=1)
        trunk, dates = self._trunk(items, timestamps, self.max_tokens - self._fixed - self.longest - shown)
        before = np.full((len(rows), count), self._between)
        before[:, 0] = self._choose
        columns = [before, self._titles + candidates]
        if self._items is not None:
            columns += [np.full((len(rows), count), self._comma), self._items + candidates]
        each = np.stack(columns, axis=2).reshape(len(rows), -1)
        part = Part.of(each, rows, self._pieces)
        part.sizes[1 :: len(columns)] = self.title_sizes[candidates.ravel()]
        parts = [trunk, part, Part.of([self._chosen], rows, self._pieces)]
        return self._pieces.batch(len(rows), parts, dates, constant=self._constant)

    def answers(self, candidates: np.ndarray) -> Answers:
        """The titles of `[B, C]` items with the token that ends them."""
        sizes = self.title_sizes[candidates] + 1
        return Answers(self._answers[candidates][:, :, : sizes.max()].astype(np.int64), sizes)

    def lengths(self, items: Sequence[np.ndarray], candidates: np.ndarray) -> np.ndarray:
        """`[B]` a cheap estimate of each prompt's length with an answer, as `Prompts.user_lengths`."""
        shown = (self.title_sizes[candidates] + self._shown_fixed).sum(axis=1)
        return np.minimum(self.user_lengths(items) + self._fixed + shown + self.longest, self.max_tokens)

    def _longest_cut(self, stated: int, limit: int | None, count: int) -> int:
        """The most tokens of a title with which the longest `count` of them, an event and an answer always fit."""
        event = int(self._number_sizes[0]) + self._event_fixed + LONGEST_DATE
        room = self.max_tokens - self._fixed - count * self._shown_fixed - event - 1
        cut = min(int(self.title_sizes.max()), room // (count + 2))
        if cut < 1:
            raise ParamsError(
                f"`model.max_tokens` is {stated} and the backbone takes {limit or 'any number of'} tokens: no room for "
                f"{count} candidates' titles beside the {self.max_tokens - room} tokens of the prompt itself. Raise "
                "`model.max_tokens`, or choose a backbone with longer inputs."
            )
        return cut

    def _title_tokens(self, sizes: np.ndarray) -> np.ndarray:
        """The first `sizes` `[I + 1]` tokens of each title, one title after the other."""
        items = np.arange(1, len(sizes))
        part = Part(self._titles + items, sizes[1:], np.zeros(len(items), dtype=np.int64))
        return self._pieces.batch(1, [part]).token_ids[0]
