"""How likely a language model holds each of some titles as the answer to a prompt.

The candidates of a prompt share its keys and values, which are computed once: the 20 answers cost the tokens that they
have, not 20 prompts. Three ways to the hidden state before each token of each answer, the first that is right on the
model at hand is taken (`choose`):

- `in_a_tree`: all answers of a prompt in one row behind it, each seeing the prompt and itself;
- `in_rows`: each answer in a row of its own behind a copy of the prompt's keys and values;
- `separately`: prompt and answer run as one text, for each answer anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from llmsrec.engine.backbone_checks import first_line
from llmsrec.engine.decoder import Decoder
from llmsrec.engine.vocabulary import Vocabulary
from llmsrec.engine.yardstick import distance, tolerance
from llmsrec.prompts.answers import Answers

LOGITS = 1 << 26  # that are held at a time
LEFT_OUT = {"in_a_tree": "titles are not run in a tree:", "in_rows": "a prompt is run anew for each title:"}


@dataclass(frozen=True)
class Prefilled:
    """`B` prompts that a model has read.

    Attributes:
        inputs: `[B, L, d_llm]` the prompts themselves, padded on the right.
        lengths: `[B]`.
        parts: keys and values `[B, heads, L, d_head]` of each layer in turn; none where nothing goes on from them.
        last: `[B, d_llm]` the hidden states at the prompts' last tokens, where there are `parts`.
    """

    inputs: Tensor
    lengths: Tensor
    parts: list[Tensor]
    last: Tensor

    @property
    def present(self) -> Tensor:
        """`[B, L]`, True where a prompt is and no padding."""
        return torch.arange(self.inputs.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def of(self, rows: Tensor) -> "Prefilled":
        """Some of the prompts."""
        return Prefilled(self.inputs[rows], self.lengths[rows], [part[rows] for part in self.parts], self.last[rows])

    def cache(self, config: Any, copies: int = 1) -> Any:
        """A new cache that a pass may add to, in which each prompt stands `copies` times in a row."""
        cache: Any = DynamicCache(config=config)
        for layer in range(len(self.parts) // 2):
            pair = (part.repeat_interleave(copies, dim=0) for part in self.parts[2 * layer : 2 * layer + 2])
            cache.update(*pair, layer)
        return cache


States = Callable[[Any, Prefilled, Answers], Tensor]  # model, prompts, answers -> `[P, d_llm]` of `Answers.places`


@torch.no_grad()
def prefill(model: Any, inputs: Tensor, lengths: Tensor, states: States, decoder: Decoder | None = None) -> Prefilled:
    """Run `B` prompts `[B, L, d_llm]`, padded on the right, and keep their keys and values, if `states` needs them.

    Args:
        decoder: runs the model, if it is Llama-like.
    """
    if states is separately:
        return Prefilled(inputs, lengths, [], inputs[:, 0])
    if decoder is not None:
        return Prefilled(inputs, lengths, *decoder.begin(inputs, lengths))
    cache: Any = DynamicCache(config=model.config)
    # Padding is on the right, where a causal model does not look: so no mask is needed.
    hidden = model(inputs_embeds=inputs, past_key_values=cache).last_hidden_state
    parts = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    return Prefilled(inputs, lengths, parts, hidden[torch.arange(len(inputs), device=inputs.device), lengths - 1])


@dataclass(frozen=True)
class Scores:
    """What a model says of `C` answers to each of `B` prompts.

    Attributes:
        summed, mean: `[B, C]` float32, ln p(answer | prompt) over all its tokens, its end among them, and as their
            mean; in nats.
        greedy: `[B, C]` whether it is what the model writes when it always takes the likeliest token.
    """

    summed: Tensor
    mean: Tensor
    greedy: Tensor


@torch.no_grad()
def score(model: Any, vocabulary: Vocabulary, prompts: Prefilled, answers: Answers, states: States) -> Scores:
    """Score each answer; those with the same tokens have the same scores.

    Args:
        model: base model of a causal backbone.
        states: one of the ways of this module.
    """
    rows, which, steps = (torch.from_numpy(part).to(prompts.lengths.device) for part in answers.places)
    token_ids = torch.from_numpy(answers.token_ids).to(rows.device)
    hidden, tokens = states(model, prompts, answers), token_ids[rows, which, steps]
    at_once = max(1, LOGITS // model.get_input_embeddings().weight.shape[0])
    sizes, same = (torch.from_numpy(part).to(rows.device) for part in (answers.sizes, answers.same))
    summed, others = torch.zeros(2, *sizes.shape, device=rows.device)
    for start in range(0, len(rows), at_once):
        some = slice(start, start + at_once)
        logits, wanted, where = vocabulary(hidden[some]), tokens[some], (rows[some], which[some])
        summed.index_put_(where, -F.cross_entropy(logits, wanted, reduction="none"), accumulate=True)
        others.index_put_(where, (logits.argmax(dim=1) != wanted).float(), accumulate=True)
    summed = summed.gather(1, same)
    return Scores(summed, summed / sizes, others.gather(1, same) == 0)


def in_a_tree(model: Any, prompts: Prefilled, answers: Answers) -> Tensor:
    """`[P, d_llm]`: one pass, in which a prompt's answers stand one behind the other."""
    rows, which, steps = answers.places
    ends = steps == answers.sizes[rows, which] - 1  # nothing follows the last token, so it is not run
    rows, which, steps = rows[~ends], which[~ends], steps[~ends]
    if not len(rows):
        return prompts.last[torch.from_numpy(answers.places[0]).to(prompts.last.device)]
    columns = np.arange(len(rows)) - np.searchsorted(rows, rows)
    shape = len(answers.sizes), int(columns.max()) + 1
    table = np.zeros((3, *shape), dtype=np.int64)
    table[:, rows, columns] = answers.token_ids[rows, which, steps], which + 1, steps
    token_ids, branches, places = torch.from_numpy(table).to(prompts.lengths.device)

    own = (branches[:, :, None] == branches[:, None]) & (places[:, None] <= places[:, :, None])
    sees = torch.cat([prompts.present[:, None].expand(-1, shape[1], -1), own], dim=2)
    inputs = model.get_input_embeddings()(token_ids)
    mask = torch.zeros(sees.shape, dtype=inputs.dtype, device=inputs.device)
    mask = mask.masked_fill_(~sees, torch.finfo(inputs.dtype).min)[:, None]
    hidden = model(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=prompts.lengths[:, None] + places,
        past_key_values=prompts.cache(model.config),
    ).last_hidden_state
    return _before_each(prompts, answers, hidden[torch.from_numpy(rows), torch.from_numpy(columns)])


def in_rows(model: Any, prompts: Prefilled, answers: Answers) -> Tensor:
    """`[P, d_llm]`: prompt by prompt, a pass in which each answer has a row of its own."""
    hidden = [_rows_of(model, prompts, answers, row) for row in range(len(answers.sizes))]
    return _before_each(prompts, answers, torch.cat(hidden))


def separately(model: Any, prompts: Prefilled, answers: Answers) -> Tensor:
    """`[P, d_llm]`: each answer with its prompt as a text of its own, one text a pass: right on any model."""
    hidden = []
    rows, which, _ = answers.places
    for row, answer in dict.fromkeys(zip(rows.tolist(), which.tolist(), strict=True)):
        length, size = int(prompts.lengths[row]), int(answers.sizes[row, answer])
        token_ids = torch.from_numpy(answers.token_ids[row, answer, : size - 1]).to(prompts.inputs.device)
        text = torch.cat([prompts.inputs[row, :length], model.get_input_embeddings()(token_ids)])
        states = model(inputs_embeds=text[None], use_cache=False).last_hidden_state[0]
        hidden.append(states[length - 1 :])
    return torch.cat(hidden)


def as_one_text(
    model: Any, inputs: Tensor, lengths: Tensor, answers: Answers, decoder: Decoder | None = None
) -> Tensor:
    """`[P, d_llm]`, with a gradient: each of `B` prompts `[B, L, d_llm]` and its only answer run as one text.

    Prompts are padded on the right, where a causal model does not look: so no mask is needed.

    Args:
        decoder: runs the model, if it is Llama-like.
    """
    rows, _, steps = (torch.from_numpy(part).to(inputs.device) for part in answers.places)
    token_ids = torch.from_numpy(answers.token_ids[:, 0]).to(inputs.device)
    ends = lengths + torch.from_numpy(answers.sizes[:, 0]).to(inputs.device) - 1  # the last token is not run
    texts = F.pad(inputs, (0, 0, 0, max(0, int(ends.max()) - inputs.shape[1])))
    follows = steps > 0
    places = (rows[follows], (lengths[rows] + steps - 1)[follows])
    texts = texts.index_put(places, model.get_input_embeddings()(token_ids[rows[follows], steps[follows] - 1]))
    if decoder is None:
        hidden = model(inputs_embeds=texts, use_cache=False).last_hidden_state
        return hidden[rows, lengths[rows] + steps - 1]
    read = (lengths[:, None] - 1 + torch.arange(int(steps.max()) + 1, device=rows.device)).clamp(max=texts.shape[1] - 1)
    return decoder(texts, read)[rows, steps]


@torch.no_grad()
def choose(
    model: Any, inputs: Tensor, lengths: Tensor, answers: Answers, decoder: Decoder | None = None
) -> tuple[States, Decoder | None]:
    """The first way that gives the states of `separately` on such prompts, and `decoder` if it is right there, too.

    A line is printed where it is not the first. Prompts should be as long as they can become, since a model may be
    right on short ones alone.
    """
    plain = separately(model, prefill(model, inputs, lengths, separately), answers).float()
    ways = [(in_a_tree, decoder)] if decoder is not None else []
    for way, by in [*ways, (in_a_tree, None), (in_rows, None)]:
        try:
            apart = distance(way(model, prefill(model, inputs, lengths, way, by), answers).float(), plain)
            reason = f"states are {apart:.0e} apart"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model's code stumbles over, separate passes do without it
            apart, reason = float("inf"), f"the model fails ({first_line(error)})"
        if apart <= tolerance(model):
            return way, by
        print(f"{LEFT_OUT[way.__name__]} {reason}", flush=True)
    return separately, None


def _rows_of(model: Any, prompts: Prefilled, answers: Answers, row: int) -> Tensor:
    """The hidden states at all tokens but the last of each answer of a prompt, one answer after the other."""
    kept = np.flatnonzero(answers.same[row] == np.arange(answers.sizes.shape[1]))
    sizes = torch.from_numpy(answers.sizes[row, kept]).to(prompts.lengths.device) - 1
    width, length = int(sizes.max()), int(prompts.lengths[row])
    if not width:
        return prompts.last[:0]
    alone = Prefilled(
        prompts.inputs[row : row + 1, :length],
        prompts.lengths[row : row + 1],
        [part[row : row + 1, :, :length] for part in prompts.parts],
        prompts.last[row : row + 1],
    )
    token_ids = torch.from_numpy(answers.token_ids[row, kept, :width]).to(sizes.device)
    present = torch.arange(width, device=sizes.device) < sizes[:, None]
    hidden = model(
        inputs_embeds=model.get_input_embeddings()(token_ids),
        attention_mask=torch.cat([alone.present.expand(len(kept), -1), present], dim=1).long(),
        position_ids=(length + torch.arange(width, device=sizes.device)).expand(len(kept), -1),
        past_key_values=alone.cache(model.config, len(kept)),
    ).last_hidden_state
    return hidden[present]


def _before_each(prompts: Prefilled, answers: Answers, hidden: Tensor) -> Tensor:
    """States before each token, from those at all tokens but the last ones: before the first is the prompt's last."""
    rows, _, steps = answers.places
    first = torch.from_numpy(steps == 0).to(hidden.device)
    states = hidden.new_empty(len(rows), hidden.shape[1])
    states[first] = prompts.last[torch.from_numpy(rows[steps == 0]).to(hidden.device)].to(hidden.dtype)
    states[~first] = hidden
    return states
