"""A language model and a frozen sequential recommender, joined by MLPs and two learned tokens: next item retrieval.

Paper, Sec. 2.1.2 and 3: [UserOut] and [ItemOut] read a user's and an item's representation out of the language model;
f_user and f_item bring them into a common space of d' dimensions, where the score is a dot product. In LLM-SRec,
f_CF-user brings the sequential recommender's user vector there, and the two are pulled together (Eq. 2) and kept apart
(Eq. 3). TALLRec, LLaRA, CoLLM and A-LLMRec differ in what their prompts hold (Table 2) and in what is trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.data.sequences import Sequences
from llmsrec.engine import backbone as backbones
from llmsrec.engine import lora
from llmsrec.engine.backbone import Backbone
from llmsrec.engine.prefix_store import Budget
from llmsrec.engine.readout import read_out, read_out_by_length
from llmsrec.engine.shortcuts import choose
from llmsrec.files import read_json
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.heads import f_input, output_heads, start_at_the_size_of_words
from llmsrec.models.llm.joined import Joined
from llmsrec.progress import Progress
from llmsrec.prompts.retrieval import PromptBatch, Prompts, PromptSettings

BATCH_TOKENS = 8_192  # prompt tokens in one forward pass without gradient
CUDA_BATCH_TOKENS = 131_072  # at most, on CUDA, where few tokens take as long as many
WIDTHS = 64  # a token's share of the device's memory in such a pass, in hidden states


@dataclass(frozen=True)
class Parts:
    """What a system's model has; LLM-SRec's has all of it.

    Attributes:
        item_embedding: prompts hold item embeddings: Table 2 (b) or (c), else (a).
        cf_user: f_CF-user is trained.
    """

    item_embedding: bool = True
    cf_user: bool = True


ALL_PARTS = Parts()


class LLMSRec(Joined):
    """The joined model. Only its heads and tokens (and LoRA adapters, if any) have gradients.

    f_I and f_CF-user are drawn in any case, but neither trained nor saved where `parts` does not have them.

    Args:
        backbone: the language model, frozen, or with adapters.
        sasrec: the teacher; put in evaluation mode and frozen here.
        titles: of items 1..I.
        settings: params.yaml's `model` section, typed or with the same attributes.
        seed: for the heads' first values.
        prefixes: what the keys and values of item prompts' constant beginnings may take.
        parts: which of its parts it has.
        item_codes: `[I + 1, k]` what f_I reads of each item; the teacher's item vectors if None.
    """

    def __init__(
        self,
        backbone: Backbone,
        sasrec: Teacher,
        titles: list[str],
        settings: Any,
        seed: int,
        prefixes: Budget | None = None,
        parts: Parts = ALL_PARTS,
        item_codes: Tensor | None = None,
    ) -> None:
        super().__init__()
        prompts = partial(Prompts, backbone.tokenizer, titles, limit=backbone.limit)
        self.prompts = prompts(PromptSettings.of(settings, parts.item_embedding))
        self._text_prompts = cache(partial(prompts, self.prompts.settings.text_alone))
        self.backbone = backbone.model
        self.teacher = sasrec.requires_grad_(False).eval()
        d, d_llm = sasrec.item_vectors().shape[1], backbone.width
        self.item_codes: Tensor | None
        self.register_buffer("item_codes", item_codes, persistent=False)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.f_user, self.f_item, self.f_cf_user = output_heads(d_llm, d, settings)
            self.f_I = f_input(d if item_codes is None else item_codes.shape[1], d_llm)
            self.f_U = f_input(d, d_llm) if settings.user_representation else None
        self.f_I.requires_grad_(parts.item_embedding)
        self.f_cf_user.requires_grad_(parts.cf_user)
        # The new tokens start as the word before them, whose hidden state sums the prompt up (docs/experiments.md): as
        # the model's input, which some models scale.
        embedding: Any = backbone.model.get_input_embeddings()  # type: ignore[operator]
        last = torch.tensor([self.prompts.user_word, self.prompts.item_tail[-1]], device=embedding.weight.device)
        with torch.no_grad():
            user_out, item_out = embedding(last).float()
        self.user_out, self.item_out = nn.Parameter(user_out.clone()), nn.Parameter(item_out.clone())
        self.to(embedding.weight.device)
        self.d_prime, self.width = settings.d_prime, d_llm
        with torch.no_grad():
            shortcuts = choose(
                backbone.model,
                backbone.causal,
                self.prompts,
                self.item_inputs,
                self.user_out,
                self.item_out,
                None if self.f_U is None else self._some_user_inputs,
                prefixes or Budget(),
            )
        self.padding, self.trunk = shortcuts.padding, shortcuts.trunk
        self.decoder, self.prefixes = shortcuts.decoder, shortcuts.prefixes

    @property
    def device(self) -> torch.device:
        return self.user_out.device

    def item_inputs(self, item_ids: Tensor) -> Tensor:
        """f_I(E_i) of `[n]` items: `[n, d_llm]`."""
        codes = self.teacher.item_vectors() if self.item_codes is None else self.item_codes
        return self.f_I(codes[item_ids])

    def start_inputs_at_the_size_of_words(self) -> None:
        """See `heads.start_at_the_size_of_words`; of a model that has learnt nothing yet."""
        embedding: Any = self.backbone.get_input_embeddings()  # type: ignore[operator]
        vectors = self.teacher.item_vectors()[1:]
        start_at_the_size_of_words(self.f_I, vectors if self.item_codes is None else self.item_codes[1:], embedding)
        if self.f_U is not None:
            start_at_the_size_of_words(self.f_U, vectors, embedding)

    @contextmanager
    def text_alone(self) -> Iterator[None]:
        """For a while, prompts are those of Table 2 (a): they hold no vector of the recommender."""
        whole = self.prompts, self.prefixes
        self.prompts, self.prefixes = self._text_prompts(), None
        try:
            yield
        finally:
            self.prompts, self.prefixes = whole

    def item_groups(self, item_ids: np.ndarray) -> np.ndarray:
        """Numbers of the groups of items whose prefixes are computed together; an item's own where none are kept."""
        return item_ids if self.prefixes is None else self.prefixes.group[item_ids]

    def hidden_users(
        self, items: list[np.ndarray], timestamps: list[np.ndarray], teacher: Tensor | None = None
    ) -> Tensor:
        """h_u of `B` histories: `[B, d_llm]`. `teacher` `[B, d]` is O_u, needed where the prompt holds it."""
        explicit = self.prompts.settings.user_representation
        user_inputs = self.f_U(teacher) if explicit and self.f_U is not None else None
        return self._read_out(self.prompts.users(items, timestamps), self.user_out, user_inputs)

    def hidden_positions(
        self,
        items: list[np.ndarray],
        timestamps: list[np.ndarray],
        shortest: list[int],
        teacher: Tensor | None = None,
    ) -> Tensor:
        """h_u of each user's histories of the first `shortest`, `shortest + 1`, ... events, up to all: `[R, d_llm]`.

        What the histories share is run once where that is right; the values are those of separate prompts. `teacher`
        `[R, d]` is O_u of each history.
        """
        single = all(len(history) == short for history, short in zip(items, shortest, strict=True))
        if single:
            return self.hidden_users(items, timestamps, teacher)
        # Those that may not fit lose their oldest items, so that they do not begin alike.
        if self.trunk and max(map(len, items)) <= self.prompts.always_fit:
            return self._read_out(self.prompts.positions(items, timestamps, shortest), self.user_out)
        split_items, split_times = [], []
        for history, times, short in zip(items, timestamps, shortest, strict=True):
            split_items += [history[:end] for end in range(short, len(history) + 1)]
            split_times += [times[:end] for end in range(short, len(history) + 1)]
        return self.hidden_users(split_items, split_times, teacher)

    def batch_tokens(self) -> int:
        """Prompt tokens in one forward pass without gradient: on CUDA as many as half of its free memory may hold."""
        if self.device.type != "cuda":
            return BATCH_TOKENS
        free, _ = torch.cuda.mem_get_info(self.device)
        weight = self.backbone.get_input_embeddings().weight  # type: ignore[operator]
        fit = free // 2 // (WIDTHS * weight.shape[1] * weight.element_size())
        return max(BATCH_TOKENS, min(CUDA_BATCH_TOKENS, fit))

    def hidden_items(self, item_ids: Tensor) -> Tensor:
        """h_i of `[n]` items: `[n, d_llm]`."""
        if self.prefixes is not None:
            return self.prefixes.read_out(item_ids, self.item_inputs, self.item_out)
        return self._read_out(self.prompts.items(item_ids.cpu().numpy()), self.item_out)

    @torch.no_grad()
    def item_vectors(self, hidden: Tensor | None = None) -> Tensor:
        """f_item(h_i) of all items: `[I + 1, d']` float32 on the CPU; row 0 is zero.

        Several processes embed their own items each; every one returns all vectors.

        Args:
            hidden: `[I + 1, d_llm]` h_i as `hidden_catalogue` returned them; computed if None.
        """
        self.eval()
        if hidden is None:
            return self._of_items(self.f_item, self.d_prime)
        vectors = self.f_item(hidden).cpu()
        vectors[0] = 0
        return vectors

    @torch.no_grad()
    def hidden_catalogue(self) -> Tensor:
        """h_i of all items: `[I + 1, d_llm]` float32 on the CPU; row 0 is zero. Several processes share the work."""
        self.eval()
        return self._of_items(nn.Identity(), self.width)

    @torch.no_grad()
    def user_vectors(self, sequences: Sequences, users: np.ndarray | None = None, label: str = "") -> Tensor:
        """f_user(h_u) of users' histories; several processes share the work, and every one returns all vectors.

        Args:
            users: `[n]` user ids; all of 1..U if None.
            label: names the work where it says how far it is.

        Returns:
            `[n, d']`, or `[U + 1, d']` with a zero row 0 if `users` is None; float32 on the CPU.
        """
        self.eval()
        if users is None:
            everyone = self.user_vectors(sequences, np.arange(1, sequences.users + 1), label)
            return torch.cat([everyone.new_zeros(1, everyone.shape[1]), everyone])
        return self._of_users(sequences, users, self.f_user, self.d_prime, label)

    @torch.no_grad()
    def hidden_histories(self, sequences: Sequences, users: np.ndarray, label: str = "") -> Tensor:
        """h_u of users' histories: `[n, d_llm]`, else as `user_vectors`."""
        self.eval()
        return self._of_users(sequences, users, nn.Identity(), self.width, label)

    @torch.no_grad()
    def cf_user_vectors(self, seen: Tensor) -> Tensor:
        """f_CF-user of SASRec's `[n, d]` user vectors: `[n, d']` float32 on the CPU, in the space of the items."""
        self.eval()
        return self.f_cf_user(seen.to(self.device)).cpu()

    def _of_items(self, head: nn.Module, width: int) -> Tensor:
        """`[I + 1, width]`: the head's vectors of all h_i."""
        vectors = torch.zeros(len(self.teacher.item_vectors()), width)
        own = distributed.own_items(np.arange(1, len(vectors)), self.item_groups)
        _, lengths = self.prompts.item_prefixes(own)
        for rows in reported(lengths, list(token_batches(lengths, self.batch_tokens())), "items"):
            ids = torch.from_numpy(own[rows])
            vectors[ids] = head(self.hidden_items(ids.to(self.device))).cpu()
        return distributed.add_up(vectors)

    def _of_users(self, sequences: Sequences, users: np.ndarray, head: nn.Module, width: int, label: str) -> Tensor:
        """`[n, width]`: the head's vectors of the users' h_u."""
        histories = [sequences.of(user) for user in users.tolist()]
        items, times = [h[0] for h in histories], [h[1] for h in histories]
        teacher = None if self.f_U is None else self.teacher.user_vectors(sequences)
        vectors = torch.zeros(len(users), width)
        lengths = self.prompts.user_lengths(items)
        own = list(token_batches(lengths, self.batch_tokens()))[distributed.rank() :: distributed.size()]
        for rows in reported(lengths, own, "users", label):
            seen = None if teacher is None else teacher[torch.from_numpy(users[rows])].to(self.device)
            hidden = self.hidden_users([items[r] for r in rows], [times[r] for r in rows], seen)
            vectors[torch.from_numpy(rows)] = head(hidden).cpu()
        return distributed.add_up(vectors)

    def _read_out(self, prompts: PromptBatch, out: Tensor, user_inputs: Tensor | None = None) -> Tensor:
        if self.decoder is not None:
            return self.decoder.read_out(prompts, self.item_inputs, out, user_inputs)
        run = read_out if self.padding else read_out_by_length
        return run(self.backbone, prompts, self.item_inputs, out, user_inputs)

    def _some_user_inputs(self, count: int) -> Tensor:
        """f_U of some vectors, here the first items' own: `[count, d_llm]`."""
        items = torch.arange(count, device=self.device) % (len(self.teacher.item_vectors()) - 1) + 1
        return self.f_U(self.teacher.item_vectors()[items])  # type: ignore[misc]


def load(
    folder: Path,
    backbone: Path,
    sasrec: Path,
    items: Path,
    prefixes: Budget | None = None,
    item_codes: Tensor | None = None,
) -> LLMSRec:
    """Rebuild a saved model from its folder, its backbone's, its teacher's, and the catalogue; see `build`.

    Raises:
        DataError: missing, damaged or mismatched files.
    """
    config = read_json(folder / "config.json")
    model = build(
        backbone,
        sasrec,
        items,
        config["model"],
        config["backbone"],
        config["seed"],
        prefixes,
        Parts(**config.get("parts", {})),
        item_codes,
    )
    return model.fill(folder, "run `dvc repro llm_srec`")


def build(
    backbone: Path,
    sasrec: Path,
    items: Path,
    settings: dict[str, Any],
    loading: dict[str, Any],
    seed: int,
    prefixes: Budget | None = None,
    parts: Parts = ALL_PARTS,
    item_codes: Tensor | None = None,
) -> LLMSRec:
    """A new LLM-SRec, or one of the systems that differ from it by their settings.

    Args:
        backbone: folder of the backbone stage.
        sasrec: folder of the teacher.
        items: items.parquet.
        settings: the values of params.yaml's `model` section.
        loading: `dtype`, `quantization` and `lora_rank` of its `backbone` section; see `lora.tuned`.
        seed: for first values.
        prefixes, parts, item_codes: see `LLMSRec`; the first changes no value.
    """
    from llmsrec.params import Model

    base = backbones.load(backbone, loading["dtype"], loading["quantization"])
    base = lora.tuned(base, loading, seed)
    titles = pl.read_parquet(items)["title"].to_list()
    of = Model.model_validate(settings)
    return LLMSRec(base, teachers.load(sasrec, of.teacher), titles, of, seed, prefixes, parts, item_codes)


def token_batches(lengths: np.ndarray, tokens: int | None = None) -> Iterator[np.ndarray]:
    """Rows of like length together, longest first, so that a batch padded to its longest holds `tokens`.

    Args:
        tokens: `BATCH_TOKENS` if None; `LLMSRec.batch_tokens` fits the device.
    """
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(1, (tokens or BATCH_TOKENS) // max(1, int(lengths[order[0]])))
        yield order[:count]
        order = order[count:]


def reported(lengths: np.ndarray, batches: list[np.ndarray], unit: str, label: str = "") -> Iterator[np.ndarray]:
    """Pass batches of rows through, whose numbers of tokens are `lengths`, and say how far it is."""
    rows = np.concatenate(batches) if batches else np.empty(0, dtype=np.int64)
    with Progress(len(rows), unit=unit, label=label, tokens=int(lengths[rows].sum())) as progress:
        for batch in batches:
            yield batch
            progress.add(len(batch), int(lengths[batch].sum()))
