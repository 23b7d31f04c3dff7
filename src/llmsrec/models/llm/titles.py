"""A language model that recommends by title (paper, Sec. 2.1.2, generative approach): TALLRec, LLaRA, CoLLM, A-LLMRec.

They differ in what their prompts hold (Table 1) and in what is trained: adapters of the language model, f_I, f_U.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.data.choices import COUNT, Choices
from llmsrec.data.sequences import Sequences
from llmsrec.data.titles import normalised
from llmsrec.engine import likelihood
from llmsrec.engine.backbone import Backbone
from llmsrec.engine.decoder import Decoder
from llmsrec.engine.generation import greedy
from llmsrec.engine.readout import embed
from llmsrec.engine.vocabulary import Vocabulary
from llmsrec.engine.yardstick import busy_adapters
from llmsrec.errors import DataError
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.heads import f_input, start_at_the_size_of_words
from llmsrec.models.llm.joined import Joined
from llmsrec.models.llm.retrieval import reported, token_batches
from llmsrec.models.losses import language
from llmsrec.prompts.answers import Answers
from llmsrec.prompts.retrieval import DAY_MS, PromptSettings
from llmsrec.prompts.titles import TitlePrompts

Histories = tuple[list[np.ndarray], list[np.ndarray]]  # each user's item ids and times (ms), oldest first


@dataclass(frozen=True)
class Readings:
    """What a model says of the 20 titles of `n` users.

    Attributes:
        summed, mean: `[n, 20]` float32, ln p of each title, over all its tokens and as their mean.
        texts: `[n]` what it writes, `normalised`; none where nothing was to be written.
    """

    summed: np.ndarray
    mean: np.ndarray
    texts: list[str]


class TitleModel(Joined):
    """The language model with what is trained around it.

    Args:
        backbone: causal, loaded with its vocabulary, frozen or with adapters.
        teacher: the sequential recommender; put in evaluation mode and frozen here.
        titles: of items 1..I.
        settings: what prompts hold.
        seed: for first values.
        item_codes: `[I + 1, k]` what f_I reads of each item; the teacher's item vectors if None.

    Raises:
        DataError: a backbone that cannot write titles.
    """

    def __init__(
        self,
        backbone: Backbone,
        teacher: Teacher,
        titles: list[str],
        settings: PromptSettings,
        seed: int,
        item_codes: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.item_codes: Tensor
        self.f_I: nn.Module | None
        self.f_U: nn.Module | None
        if backbone.whole is None or not backbone.causal:
            raise DataError(
                f"the backbone {type(backbone.model).__name__} writes no text (it sees what stands behind a position); "
                "choose a causal language model as `backbone.model`, or the form `retrieval`."
            )
        prompts = partial(TitlePrompts, backbone.tokenizer, titles, limit=backbone.limit, count=COUNT)
        self.prompts = prompts(settings)
        self._text_prompts = cache(partial(prompts, settings.text_alone))
        self.tokenizer, self.backbone = backbone.tokenizer, backbone.model
        self.teacher = teacher.requires_grad_(False).eval()
        codes = teacher.item_vectors().detach() if item_codes is None else item_codes
        self.register_buffer("item_codes", codes, persistent=False)
        d, d_llm = teacher.item_vectors().shape[1], backbone.width
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.f_I = f_input(codes.shape[1], d_llm) if settings.item_embedding else None
            self.f_U = f_input(d, d_llm) if settings.user_representation else None
        self.to(backbone.model.get_input_embeddings().weight.device)  # type: ignore[operator]
        embedding: Any = backbone.model.get_input_embeddings()  # type: ignore[operator]
        for projection, vectors in ((self.f_I, self.item_codes), (self.f_U, teacher.item_vectors())):
            if projection is not None:
                start_at_the_size_of_words(projection, vectors[1:], embedding)
        self.vocabulary = Vocabulary(backbone.whole)
        with busy_adapters(self.backbone):
            self.way, self.decoder = self._choose_way()

    @property
    def device(self) -> torch.device:
        return self.item_codes.device

    @contextmanager
    def text_alone(self) -> Iterator[None]:
        """For a while, prompts are those of Table 1 (a): they hold no vector of the recommender."""
        whole = self.prompts
        self.prompts = self._text_prompts()
        try:
            yield
        finally:
            self.prompts = whole

    @cached_property
    def shown(self) -> list[str]:
        """The titles of items 0..I as prompts show them, `normalised`; that of item 0 is empty."""
        answers = self.prompts.answers(np.arange(len(self.prompts.title_sizes))[:, None])
        pairs = zip(answers.token_ids[:, 0], answers.sizes[:, 0], strict=True)
        return self._text([tokens[: size - 1].tolist() for tokens, size in pairs])

    def loss(self, histories: Histories, seen: Tensor | None, choices: Choices) -> Tensor:
        """Eq. 5 for `B` users, with a gradient.

        Args:
            seen: `[B, d]` O_u, the teacher's vectors of the histories, where prompts hold them.
        """
        inputs, lengths = self._inputs(histories, seen, choices.items)
        positives = np.take_along_axis(choices.items, choices.places[:, None], axis=1)
        answers = self.prompts.answers(positives)
        states = likelihood.as_one_text(self.backbone, inputs, lengths, answers, self.decoder)
        rows, which, steps = answers.places
        tokens = torch.from_numpy(answers.token_ids[rows, which, steps]).to(self.device)
        return language.title(self.vocabulary(states), tokens)

    @torch.no_grad()
    def read(self, histories: Sequences, choices: Choices, write: bool = True, label: str = "") -> Readings:
        """What the model says of the titles of the users 1..n of `histories`; several processes share the work.

        Args:
            write: whether titles are written as well.
            label: names the work where it says how far it is.
        """
        self.eval()
        pairs = [histories.of(user) for user in range(1, histories.users + 1)]
        items, times = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        seen = None if self.f_U is None else self.teacher.user_vectors(histories)[1:]
        scores = torch.zeros(2, len(items), choices.items.shape[1])
        written = torch.zeros(len(items), self.prompts.longest, dtype=torch.int64)
        lengths = self.prompts.lengths(items, choices.items)
        lengths += self.prompts.title_sizes[choices.items].sum(axis=1)
        own = list(token_batches(lengths))[distributed.rank() :: distributed.size()]
        for rows in reported(lengths, own, "users", label):
            of = choices.rows(rows)
            users = None if seen is None else seen[torch.from_numpy(rows)].to(self.device)
            prompts = self._prefill(([items[row] for row in rows], [times[row] for row in rows]), users, of.items)
            answers = self.prompts.answers(of.items)
            of_batch = likelihood.score(self.backbone, self.vocabulary, prompts, answers, self.way)
            scores[:, torch.from_numpy(rows)] = torch.stack([of_batch.summed, of_batch.mean]).cpu()
            if write:
                for row, text in zip(rows, self._write(prompts, answers, of_batch.greedy), strict=True):
                    # Counted from 1, so that 0 stands for nothing and processes' shares add up.
                    written[row, : len(text)] = torch.tensor(text, dtype=torch.int64) + 1
        distributed.add_up(scores)
        distributed.add_up(written)
        summed, mean = scores.numpy()
        return Readings(summed, mean, self._text([(row[row > 0] - 1).tolist() for row in written]) if write else [])

    def _inputs(self, histories: Histories, seen: Tensor | None, candidates: np.ndarray) -> tuple[Tensor, Tensor]:
        """Prompts `[B, L, d_llm]` with vectors in their slots, and their lengths `[B]`."""
        batch = self.prompts.ask(*histories, candidates)
        explicit = self.prompts.settings.user_representation
        users = self.f_U(seen) if explicit and self.f_U is not None else None
        inputs, _ = embed(self.backbone, batch, self._item_inputs, self.item_codes.new_zeros(()), users)
        return inputs, torch.from_numpy(batch.lengths).to(inputs.device)

    def _item_inputs(self, item_ids: Tensor) -> Tensor:
        assert self.f_I is not None
        return self.f_I(self.item_codes[item_ids])

    def _prefill(self, histories: Histories, seen: Tensor | None, candidates: np.ndarray) -> likelihood.Prefilled:
        inputs, lengths = self._inputs(histories, seen, candidates)
        return likelihood.prefill(self.backbone, inputs, lengths, self.way, self.decoder)

    def _write(self, prompts: likelihood.Prefilled, answers: Answers, likeliest: Tensor) -> list[list[int]]:
        """What the model writes after each prompt: a candidate's title where that is `likeliest` [B, C] throughout, as
        scoring has shown; only else is text generated."""
        place = likeliest.int().argmax(dim=1).tolist()
        texts = [answers.token_ids[row, k, : answers.sizes[row, k] - 1].tolist() for row, k in enumerate(place)]
        rest = torch.nonzero(~likeliest.any(dim=1))[:, 0]
        if len(rest):
            end, most = self.prompts.end, self.prompts.longest
            others = greedy(self.backbone, self.vocabulary, prompts.of(rest), end, most, self.way)
            for row, text in zip(rest.tolist(), others, strict=True):
                texts[row] = text
        return texts

    @torch.no_grad()
    def _choose_way(self) -> tuple[likelihood.States, Decoder | None]:
        """How titles are scored: what is right on the longest prompts of this catalogue and on a short one."""
        base: Any = self.backbone  # whose layers hold the adapters, if there are any
        decoder = Decoder.of(base.get_base_model() if hasattr(base, "get_base_model") else base)
        by_length = 1 + np.argsort(-self.prompts.title_sizes[1:], kind="stable")
        history = np.resize(by_length, self.prompts.history)
        times = np.arange(len(history)) * DAY_MS
        candidates = np.stack([np.resize(by_length, COUNT), np.resize(by_length[::-1], COUNT)])
        seen = None if self.f_U is None else self.item_codes.new_ones(2, self.teacher.item_vectors().shape[1])
        inputs, lengths = self._inputs(([history, history[-1:]], [times, times[:1]]), seen, candidates)
        answers = self.prompts.answers(candidates[:, [0, 9, 19]])
        return likelihood.choose(self.backbone, inputs, lengths, answers, decoder)

    def _text(self, token_ids: list[list[int]]) -> list[str]:
        texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return normalised(pl.Series(texts, dtype=pl.String)).to_list()
