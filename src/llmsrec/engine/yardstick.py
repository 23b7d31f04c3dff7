"""The plain pass over the longest prompts that the settings allow, which every cheaper pass is measured against.

The plain pass runs one prompt alone, without padding, without anything kept. A model may be right on short prompts and
wrong on those beyond its window, so the prompts are as long as they can become with this catalogue.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmsrec.engine.backbone_checks import first_line
from llmsrec.engine.readout import ItemInputs, read_out, read_out_by_length
from llmsrec.errors import DataError
from llmsrec.prompts.retrieval import DAY_MS, PromptBatch, Prompts

# How far apart two right passes may be, relative to a vector's length: what float32 leaves after some dozen layers, and
# the same for types that round to 8 or 11 bits, or to 1/127 of a row's largest value (docs/troubleshooting.md).
TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.05}
QUANTIZED = 0.1
ReadOut = Callable[[PromptBatch, ItemInputs, Tensor, Tensor | None], Tensor]  # as `readout.read_out` of a model
LAST_DAY = 47_000  # since the epoch, in 2098
ADAPTER_STD = 0.1
DATES = 64  # that are tried for a short one


class Yardstick:
    """Prompts with their hidden states by the plain pass; see `right`.

    Args:
        model: base model of a backbone.
        prompts: prompts of the catalogue.
        item_inputs: f_I(E); every other item gets a word's embedding instead, so that what is measured does not hang on
            an f_I that has learnt nothing yet.
        user_out: the learned token [UserOut].
        user_inputs: f_U(O_u) of `n` users, where prompts hold it.
        item_out: the learned token [ItemOut], if item prompts are run as well.

    Attributes:
        histories, times: of the users: beginnings of the longest history that always fits, another user's, which begins
            with the shortest prompt, that prompt alone, and (where it does not always fit) the longest history of all.
            A model that changes its ways at some length (longrope) has prompts on either side of it.
        items: ids of the items with the longest, a middling and the shortest title.
        plain: `[B + 3, d_llm]` hidden states of the users, then of the items (`[B, d_llm]` without `item_out`).
        longest: tokens of the longest prompt.

    Raises:
        DataError: the model cannot run such a prompt, or not with finite values.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Prompts,
        item_inputs: ItemInputs,
        user_out: Tensor,
        user_inputs: Callable[[int], Tensor] | None = None,
        item_out: Tensor | None = None,
    ) -> None:
        self.model, self.prompts, self.user_out, self.item_out = model, prompts, user_out, item_out
        self.item_inputs = _half_words(model, item_inputs)
        rng = np.random.default_rng(0)
        by_length = 1 + np.argsort(-prompts.title_sizes[1:], kind="stable")
        longest = np.resize(by_length, prompts.history)
        days = np.sort(rng.integers(0, LAST_DAY, prompts.history)) * DAY_MS
        self.fits = min(prompts.always_fit, prompts.history)
        self.sizes = sorted({1, (self.fits + 1) // 2, self.fits})
        other = rng.choice(by_length, (self.fits + 2) // 3)
        other[0] = by_length[-1]
        self.histories = [*(longest[:size] for size in self.sizes), other]
        self.times = [days[: len(history)] for history in self.histories]
        self.times[-1] = np.array([_shortest_date(prompts, other[0], rng), *self.times[-1][1:]])
        self.histories, self.times = [*self.histories, other[:1]], [*self.times, self.times[-1][:1]]
        if self.fits < prompts.history:
            self.histories, self.times = [*self.histories, longest], [*self.times, days]
        self.items = by_length[[0, len(by_length) // 2, -1]]
        self.user_inputs = None if user_inputs is None else user_inputs(len(self.histories))
        batches = [prompts.users(self.histories[k : k + 1], self.times[k : k + 1]) for k in range(len(self.histories))]
        of_items = [] if item_out is None else [prompts.items(self.items[k : k + 1]) for k in range(len(self.items))]
        self.longest = max(int(batch.lengths[0]) for batch in (*batches, *of_items))
        states = [self._alone(batch, user_out, k) for k, batch in enumerate(batches)]
        self.plain = torch.cat(states + [self._alone(batch, item_out) for batch in of_items])

    def in_batches(self, run: ReadOut) -> Tensor:
        """The hidden states `plain`, from user prompts in one batch and item prompts in another."""
        prompts = self.prompts.users(self.histories, self.times)
        hidden = run(prompts, self.item_inputs, self.user_out, self.user_inputs)
        if self.item_out is None:
            return hidden
        return torch.cat([hidden, run(self.prompts.items(self.items), self.item_inputs, self.item_out, None)])

    def at_once(self, run: ReadOut) -> Tensor:
        """The hidden states `plain[: len(sizes) + 2]`, from all beginnings of two histories as branches of a trunk."""
        count = len(self.sizes)
        two = slice(count - 1, count + 1)
        prompts = self.prompts.positions(self.histories[two], self.times[two], [1, 1])
        rows = [*(size - 1 for size in self.sizes), self.fits + len(self.histories[count]) - 1, self.fits]
        return run(prompts, self.item_inputs, self.user_out, None)[rows]

    def padding(self) -> bool:
        """Whether prompts may share a batch with longer ones; a line is printed where they may not.

        Raises:
            DataError: prompts cannot even share a batch with prompts of their own length.
        """
        said = "prompts are run in batches of one length: with padding,"
        if self.right(lambda: self.in_batches(partial(read_out, self.model)), self.plain, said):
            return True
        if not self.right(lambda: self.in_batches(partial(read_out_by_length, self.model)), self.plain, None):
            raise DataError(
                f"the backbone {type(self.model).__name__} gives a prompt other vectors when another one is in its "
                "batch, with padding or without; choose another `backbone.model`."
            )
        return False

    @torch.no_grad()
    def right(self, compute: Callable[[], Tensor], plain: Tensor, said: str | None) -> bool:
        """Whether `compute` gives the vectors `plain`, but for rounding; if not, `said` is printed with the reason."""
        try:
            apart = distance(compute(), plain)
            reason = f"vectors are {apart:.0e} apart in prompts of up to {self.longest} tokens"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model's code stumbles over, the plain pass does without it
            apart, reason = float("inf"), f"the model fails ({first_line(error)})"
        good = apart <= tolerance(self.model)
        if not good and said is not None:
            print(f"{said} {reason}", flush=True)
        return good

    @torch.no_grad()
    def _alone(self, prompt: PromptBatch, out: Tensor | None, user: int | None = None) -> Tensor:
        inputs = None if self.user_inputs is None or user is None else self.user_inputs[user : user + 1]
        name, length = type(self.model).__name__, int(prompt.lengths[0])
        try:
            hidden = read_out(self.model, prompt, self.item_inputs, out, inputs)  # type: ignore[arg-type]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise DataError(
                f"the backbone {name} cannot run a prompt of {length} tokens ({first_line(error)}); choose another "
                "`backbone.model`, or lower `model.max_tokens`, `model.history` or `model.title_tokens`."
            ) from error
        if not hidden.isfinite().all():
            raise DataError(
                f"the backbone {name} gives values that are not finite for a prompt of {length} tokens; set "
                "`backbone.dtype` to float32, or choose another `backbone.model`."
            )
        return hidden


@contextmanager
def busy_adapters(model: nn.Module) -> Iterator[None]:
    """Give what is trained in `model` and still zero (LoRA's B) random values for a while: as zeros they hide what a
    pass would do to them.
    """
    generator = torch.Generator().manual_seed(0)
    idle = [parameter for parameter in model.parameters() if parameter.requires_grad and not parameter.any()]
    with torch.no_grad():
        for parameter in idle:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * ADAPTER_STD)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter in idle:
                parameter.zero_()


def distance(vectors: Tensor, plain: Tensor) -> float:
    """The largest difference of two rows, relative to the length of the second; not a number where values are not."""
    return float(((vectors - plain).norm(dim=1) / plain.norm(dim=1)).max())


def tolerance(model: Any) -> float:
    """The largest `distance` of two right passes of `model`."""
    if getattr(model.config, "quantization_config", None) is not None:
        return QUANTIZED
    return TOLERANCE[model.get_input_embeddings().weight.dtype]


def _shortest_date(prompts: Prompts, item: int, rng: np.random.Generator) -> int:
    """The time in ms, of some dozens, whose date takes the fewest tokens."""
    times = rng.integers(0, LAST_DAY, DATES) * DAY_MS
    lengths = prompts.users([np.array([item])] * DATES, list(times[:, None])).lengths
    return int(times[lengths.argmin()])


def _half_words(model: nn.Module, item_inputs: ItemInputs) -> ItemInputs:
    embedding = model.get_input_embeddings()  # type: ignore[operator]

    def inputs(item_ids: Tensor) -> Tensor:
        values = item_inputs(item_ids)
        words = embedding(item_ids % embedding.weight.shape[0]).to(values.dtype)
        return torch.where((item_ids % 2 == 0)[:, None], values, words)

    return inputs
