"""The embedded backbone: a BPE tokenizer and a small Llama, trained in about a minute on the catalogue's own text.

It stands in for a pre-trained language model where none can be had. It sees titles only, never who bought what in
which order: its documents are the prompts of Table 2 over items drawn at random, each followed by words of their
titles, so that it learns the words, the form of the prompts, and to carry titles to the position that is read out.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmsrec.files import write_json
from llmsrec.models.prompts import DAY_MS, NUMBER, PHRASES, Prompts, plain_text_encoder
from llmsrec.params import Embedded

BEGIN, END, PAD = "<|begin_of_text|>", "<|eot_id|>", "<|pad|>"
LONGEST_PROMPT = 2_048
ROW_TOKENS = 128  # of each training row
WORDS = 12  # of titles, after a prompt
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


def documents(titles: list[str], tokenizer: Any, rng: np.random.Generator) -> Iterator[list[int]]:
    """Endless token ids of prompts (without their slots), each followed by words drawn from its titles.

    A word comes from the latest title with probability 0.4, else from the one before with 0.4, and so on, as what is
    said of a list of purchases is mostly about the recent ones.
    """
    settings = SimpleNamespace(
        history=10, date_format="YYYY/MM/DD", title_tokens=32, max_tokens=LONGEST_PROMPT, user_representation=False
    )
    prompts, encode = Prompts(tokenizer, titles, settings), plain_text_encoder(tokenizer)
    words = [encode([f" {word}" for word in title.split()]) for title in titles]
    while True:
        if rng.random() < 0.3:
            items = rng.integers(1, len(titles) + 1, 1)
            batch = prompts.items(items)
        else:
            items = rng.integers(1, len(titles) + 1, min(int(rng.geometric(0.3)), settings.history))
            days = rng.integers(8_000, 19_000) + np.cumsum(rng.integers(0, 60, len(items)))
            batch = prompts.users([items], [days * DAY_MS])
        ages = np.minimum(rng.geometric(0.4, WORDS), len(items))
        drawn = [words[item - 1] for item in items[-ages].tolist()]
        followed = [token for title in drawn for token in title[rng.integers(len(title))]]
        yield [*batch.token_ids[batch.slots == 0].tolist(), *followed, tokenizer.eos_token_id]


def train_model(
    titles: list[str], tokenizer: PreTrainedTokenizerFast, settings: Embedded, rng: np.random.Generator
) -> LlamaForCausalLM:
    """A small Llama, trained to predict the next token of documents packed into rows of `ROW_TOKENS`."""
    config = LlamaConfig(
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
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps, pct_start=0.1)
    source, stream, started = documents(titles, tokenizer, rng), list[int](), time.monotonic()
    for step in range(1, settings.steps + 1):
        need = settings.batch_size * ROW_TOKENS
        while len(stream) < need:
            stream += next(source)
        batch = torch.tensor(stream[:need]).view(settings.batch_size, ROW_TOKENS)
        stream = stream[need:]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == settings.steps:
            seconds = time.monotonic() - started
            print(f"backbone step {step}/{settings.steps}  loss {loss.item():.3f}  {seconds:.0f} s", flush=True)
    return model.eval()
