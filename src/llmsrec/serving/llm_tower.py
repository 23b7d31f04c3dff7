"""The language model as a reader of histories: prompt, backbone on some runtime, [UserOut], f_user."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from llmsrec.engine.kept import Kept
from llmsrec.prompts.retrieval import PromptBatch, Prompts, PromptSettings
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.nearest_title import NearestTitle
from llmsrec.serving.towers import History, Teacher

ITEMS = 64  # prompts of items at once


@dataclass(frozen=True)
class Vectors:
    """What stands in prompts in place of words, float32.

    Attributes:
        item_inputs: `[I + 1, d_llm]` f_I of items' embeddings.
        user_out, item_out: `[d_llm]` the learned tokens.
        user_inputs: f_U(O_u) `[n, d_llm]` of some `n` users, where prompts hold it.
    """

    item_inputs: np.ndarray
    user_out: np.ndarray
    item_out: np.ndarray
    user_inputs: Callable[[int], np.ndarray] | None = None


class LanguageModel(Protocol):
    """A bundle's backbone on some runtime: `on_torch.OnTorch`, `on_onnx.OnOnnx`.

    Attributes:
        tokenizer: what `Prompts` needs.
        limit: the longest input in tokens, if it has one.
    """

    tokenizer: Any
    limit: int | None

    def prepare(self, prompts: Prompts, vectors: Vectors) -> None:
        """Know what will be read, before anything is.

        Raises:
            DataError: the model cannot run the longest prompt.
        """

    def read_out(
        self, prompts: PromptBatch, item_inputs: np.ndarray, out: np.ndarray, user_inputs: np.ndarray | None = None
    ) -> np.ndarray:
        """`[B, d_llm]` float32 hidden states at the out tokens of `B` prompts.

        Args:
            item_inputs: `[n, d_llm]`, by the numbers of items in `prompts`.
            out: `[d_llm]` the learned token.
            user_inputs: `[B, d_llm]`, where prompts hold them.
        """

    def texts(self, titles: list[str]) -> np.ndarray | None:
        """`[n, d_llm]` text vectors (`engine.text_vectors`); None where single positions alone are read out."""

    def kept(self, limit: int) -> Kept | None:
        """What keeps up to so many bytes of users' prompts, if vectors are the same with it; else a line says so."""


class LLMTower:
    """The prompt of Table 2 through the frozen backbone, and f_user on ONNX Runtime."""

    def __init__(self, bundle: Bundle, language: LanguageModel) -> None:
        self._language = language
        settings = PromptSettings(**bundle.config["prompts"])
        self._prompts_of = partial(Prompts, language.tokenizer, settings=settings, limit=language.limit)
        titles = bundle.items["title"].to_list()
        self._prompts = self._prompts_of(titles=titles)
        self._trained = bundle.trained
        self._f_I = bundle.models["f_I"]
        of_titles = ("title_projection", "title_bias")
        self._of_titles = [bundle.tensors[name] for name in of_titles] if bundle.reads_titles else None
        self._embeddings = bundle.tensors["item_embeddings"]
        self._item_inputs = self.inputs_of(self._embeddings)
        self._nearest = NearestTitle(titles[: bundle.trained])
        self._user_out, self._item_out = bundle.tensors["user_out"], bundle.tensors["item_out"]
        self._f_user, self._f_item = bundle.models["f_user"], bundle.models["f_item"]
        self._explicit = settings.user_representation
        if self._explicit:
            self._teacher, self._f_U = Teacher(bundle), bundle.models["f_U"]
        user_inputs = self._some_user_inputs if self._explicit else None
        language.prepare(self._prompts, Vectors(self._item_inputs, self._user_out, self._item_out, user_inputs))
        self.kept: Kept | None = None

    def keep(self, limit: int) -> None:
        """From now on keep keys and values of users' prompts, up to so many bytes, if vectors are the same with them.

        It does nothing where prompts begin with the user's own vector (Table 2 (c)), and have nothing in common.
        """
        if limit and not self._explicit:
            self.kept = self._language.kept(limit)

    def vectors(self, histories: list[History]) -> np.ndarray:
        """`[B, d']` float32 of `B` histories with one item at least."""
        prompts = self._prompts.users([h.items for h in histories], [h.timestamps for h in histories])
        if self.kept:
            return self._f_user(self.kept.read_out(prompts))
        seen = self._user_inputs(histories) if self._explicit else None
        return self._f_user(self._language.read_out(prompts, self._item_inputs, self._user_out, seen))

    def of_items(self, items: np.ndarray) -> np.ndarray:
        """`[n, d']` float32, what item prompts and f_item make of items of the catalogue."""
        return self._of_items(self._prompts, items, self._item_inputs)

    def of_titles(self, titles: list[str], inputs: np.ndarray | None = None) -> np.ndarray:
        """`[n, d']` float32, the vectors of items with these titles that training never saw.

        Args:
            inputs: `[n, d_llm]` float32, what stands for f_I of their embeddings; None: f_I of `embeddings_of`.
        """
        if inputs is None:
            inputs = self.inputs_of(self.embeddings_of(titles))
        prompts = self._prompts_of(titles=titles)
        return self._of_items(prompts, np.arange(1, len(titles) + 1), np.pad(inputs, ((1, 0), (0, 0))))

    def embeddings_of(self, titles: list[str]) -> np.ndarray:
        """`[n, d]` float32, embeddings for items with these titles that training never saw.

        What the teacher makes of titles, if it does; else the embeddings of the items whose titles are nearest, zeros
        where no word is known (docs/experiments.md, "New items by title").
        """
        texts = None if self._of_titles is None else self._language.texts(titles)
        if self._of_titles is None or texts is None:
            return self._embeddings[self._nearest.of(titles)]
        projection, bias = self._of_titles
        made: np.ndarray = texts @ projection + bias
        return made

    def inputs_of(self, embeddings: np.ndarray) -> np.ndarray:
        """`[n, d_llm]`, f_I of `[n, d]` item embeddings."""
        parts = np.array_split(embeddings, 1 + len(embeddings) // 1024)
        return np.concatenate([self._f_I(part) for part in parts])

    def _of_items(self, prompts: Prompts, items: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        vectors = []
        for rows in np.array_split(items, -(-len(items) // ITEMS)):
            vectors.append(self._f_item(self._language.read_out(prompts.items(rows), inputs, self._item_out)))
        return np.concatenate(vectors)

    def lengths(self, histories: list[History]) -> np.ndarray:
        """`[B]` about how many tokens each prompt has, for putting prompts of like length together."""
        return self._prompts.user_lengths([h.items for h in histories])

    def _user_inputs(self, histories: list[History]) -> np.ndarray:
        """f_U(O_u): `[B, d_llm]`."""
        return self._f_U(self._teacher.vectors(histories))

    def _some_user_inputs(self, count: int) -> np.ndarray:
        numbers = np.arange(count) % self._trained + 1
        return self._user_inputs([History(np.array([item]), np.array([0]), []) for item in numbers])
