"""The embedded backbone: a BPE tokenizer and a small Llama, trained in about a minute on the catalogue's own text.

It stands in for a pre-trained language model where none can be had. It sees titles only, never who bought what in
which order: its texts are the prompts of Table 2 over items drawn at random. It learns two things from them: to tell
the next token, and to carry the titles to the position that is read out, so that one linear map for each of the last
titles tells that title's words from the state there. The maps are thrown away.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmsrec.engine.readout import branched
from llmsrec.errors import ParamsError
from llmsrec.files import write_json
from llmsrec.params import Embedded
from llmsrec.prompts.retrieval import (
    DAY_MS,
    NUMBER,
    OUT,
    PHRASES,
    PromptBatch,
    Prompts,
    PromptSettings,
    plain_text_encoder,
)

BEGIN, END, PAD = "<|begin_of_text|>", "<|eot_id|>", "<|pad|>"
LONGEST_PROMPT = 2_048
HISTORY, TITLE_TOKENS = 10, 32  # the most in a prompt
LIMITS = PromptSettings(
    history=HISTORY,
    date_format="YYYY/MM/DD",
    title_tokens=TITLE_TOKENS,
    max_tokens=LONGEST_PROMPT,
    user_representation=False,
)
READ = 4  # so many of the last titles are read out,
EARLIER = 0.8  # each with this weight relative to the one after it
LONGER = 20  # steps after which histories may be one item longer: short ones teach to tell the last from the one before
ITEM_PROMPTS = 4  # every so many steps are about items
# First values: an attention layer that passes on the mean of what it sees is where carrying starts from (mimetic
# initialisation, Trockman & Kolter 2023). Numbers: docs/experiments.md.
EMBEDDING_STD, COPIED = 0.08, 0.7
# Dates and the fixed words of the prompts are one unit each, which BPE makes few tokens of; all else is split as usual.
PHRASE = "|".join(re.escape(phrase) for phrase in PHRASES)
UNITS = (
    rf"{PHRASE}|(?:\],)? \[No\.\d+ Time:| \d{{4}}[/-]\d\d[/-]\d\d"
    r"|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
)


def train(titles: list[str], settings: Embedded, folder: Path) -> None:
    """Train on `titles` and save an ordinary Hugging Face model folder, with backbone.json beside it.

    Args:
        titles: the catalogue's cleaned titles.
        folder: is created; its files are replaced.

    Raises:
        ParamsError: training diverged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(settings.seed)
    tokenizer = train_tokenizer(titles, settings.vocab_size, rng)
    model = train_model(titles, tokenizer, settings, rng)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    write_json(folder / "backbone.json", {"kind": "embedded", "model": "embedded", "revision": None})


def train_tokenizer(titles: list[str], vocab_size: int, rng: np.random.Generator) -> PreTrainedTokenizerFast:
    """Byte-level BPE over titles, dates and the prompts' fixed words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(UNITS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    days = np.datetime_as_string(rng.integers(8_000, 20_000, len(titles)).astype("datetime64[D]"))
    dates = [f" {day.replace('-', mark)}" for day, mark in zip(days, rng.choice(["/", "-"], len(days)), strict=True)]
    numbers = [f"{'],' * (k > 1)}{NUMBER.format(k)}" for k in range(1, 21)]
    fixed = [*PHRASES, *numbers] * max(1, len(titles) // 20)
    tokenizer.train_from_iterator([f" {title}" for title in titles] + dates + fixed, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD)


@dataclass(frozen=True)
class Lesson:
    """What one training step looks at.

    Attributes:
        prompts: `R` out tokens in all.
        out: the token that stands where [UserOut] or [ItemOut] will, the prompt's last word, as they start from it.
        titles: `[R, A]` the items whose titles are read out, the last one first; 0 where there is none.
    """

    prompts: PromptBatch
    out: int
    titles: np.ndarray


def lessons(count: int, prompts: Prompts, batch_size: int, rng: np.random.Generator) -> Iterator[Lesson]:
    """Endless prompts about items 1..`count` drawn at random: `batch_size` histories, or eight times as many items.

    Each history is read out after every one of its items.
    """
    step = 0
    while True:
        step += 1
        if step % ITEM_PROMPTS == 0:
            items = rng.integers(1, count + 1, 8 * batch_size)
            yield Lesson(prompts.items(items), prompts.item_tail[-1], items[:, None])
            continue
        longest = min(HISTORY, 2 + step // LONGER)
        lengths = rng.integers(1, longest + 1, batch_size * HISTORY // longest)
        histories = [rng.integers(1, count + 1, length) for length in lengths]
        times = [(rng.integers(8_000, 19_000) + np.cumsum(rng.integers(0, 60, n))) * DAY_MS for n in lengths]
        read = [history[: end + 1][::-1][:READ] for history in histories for end in range(len(history))]
        titles = np.stack([np.pad(items, (0, READ - len(items))) for items in read])
        yield Lesson(prompts.positions(histories, times, [1] * len(histories)), prompts.user_tail[-1], titles)


def train_model(
    titles: list[str], tokenizer: PreTrainedTokenizerFast, settings: Embedded, rng: np.random.Generator
) -> LlamaForCausalLM:
    """A small Llama, trained to predict the next token of prompts and to have titles read out of it."""
    prompts = Prompts(tokenizer, titles, LIMITS)
    words = title_words(titles, tokenizer)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM(configuration(settings, tokenizer)).train()
    reading = copying(model, generator)
    parameters = [*model.parameters(), reading]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.01)
    # Its tenth of rising needs two steps, so fewer than 20 in all go the first part of the way of 20.
    steps = max(settings.steps, 20)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps, pct_start=0.1)
    started = time.monotonic()
    source = lessons(len(titles), prompts, settings.batch_size, rng)
    for step, lesson in zip(range(1, settings.steps + 1), source, strict=False):
        following, read = losses(model, reading, words, lesson, generator)
        optimizer.zero_grad(set_to_none=True)
        (following + read).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if not torch.isfinite(following + read):
            raise ParamsError(
                f"the embedded backbone's loss is {following.item() + read.item()} at step {step}; lower "
                f"`backbone.embedded.lr` ({settings.lr:g})."
            )
        if step % 50 == 0 or step == settings.steps:
            print(
                f"backbone step {step}/{settings.steps}  next token {following.item():.3f}  "
                f"titles {read.item():.3f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    return model.eval()


def configuration(settings: Embedded, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The shape of the model."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=2 * settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=LONGEST_PROMPT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )


def copying(model: LlamaForCausalLM, generator: torch.Generator) -> nn.Parameter:
    """Give `model` first values under which attention copies, and return the maps `[A, d, d]` that read titles."""
    width: int = model.config.hidden_size
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        embedding.weight.normal_(0, EMBEDDING_STD, generator=generator)
        for layer in model.model.layers:
            turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0] * COPIED
            layer.self_attn.v_proj.weight.copy_(turn)  # type: ignore[union-attr, operator]
            layer.self_attn.o_proj.weight.copy_(turn.T)  # type: ignore[union-attr, operator]
    return nn.Parameter(torch.eye(width).repeat(READ, 1, 1))


def title_words(titles: list[str], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """`[I + 1, W]` each title's different tokens, padded with -1; row 0 has none."""
    encoded = plain_text_encoder(tokenizer)([f" {title}" for title in titles])
    rows = [torch.tensor(list(dict.fromkeys(tokens[:TITLE_TOKENS])), dtype=torch.long) for tokens in [[], *encoded]]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def losses(
    model: LlamaForCausalLM, reading: Tensor, words: Tensor, lesson: Lesson, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cross-entropies in nats: of the next token of the prompts, and of the titles' words read at the out tokens.

    Where an item's embedding will stand, there is a random vector now, of up to three times a token's size.
    """
    prompts = lesson.prompts
    vocabulary: Tensor = model.get_input_embeddings().weight  # type: ignore[operator, assignment]
    token_ids, slots = torch.from_numpy(prompts.token_ids), torch.from_numpy(prompts.slots)
    inputs = F.embedding(token_ids, vocabulary)
    items = slots > 0
    noise = torch.randn(int(items.sum()), inputs.shape[2], generator=generator)
    inputs[items] = noise * vocabulary.detach().std() * (1 + 2 * torch.rand((), generator=generator))
    inputs[slots == OUT] = vocabulary[lesson.out]
    text = (torch.arange(slots.shape[1]) < torch.from_numpy(prompts.lengths)[:, None]) & (slots == 0)
    if prompts.branches is None:
        options = {"attention_mask": (text | (slots != 0)).long()}
    else:
        options = branched(prompts, inputs.dtype, inputs.device)
        text &= torch.from_numpy(prompts.branches) == 0
    hidden = model.model(inputs_embeds=inputs, use_cache=False, **options).last_hidden_state
    pairs = text[:, :-1] & text[:, 1:]
    following = F.cross_entropy(hidden[:, :-1][pairs] @ vocabulary.T, token_ids[:, 1:][pairs])

    titles = torch.from_numpy(lesson.titles)
    states = torch.einsum("rd,ade->rae", hidden[slots == OUT], reading[: titles.shape[1]])
    log_probs = F.log_softmax(states @ vocabulary.T, dim=2)
    present = words[titles] >= 0
    of_title = (log_probs.gather(2, words[titles].clamp(min=0)) * present).sum(dim=2) / present.sum(dim=2).clamp(min=1)
    weights = EARLIER ** torch.arange(titles.shape[1]) * (titles > 0)
    return following, -(weights * of_title).sum() / weights.sum()
