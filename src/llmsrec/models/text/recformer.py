"""RECFORMER: a bidirectional encoder over items' key-value texts; item and history are vectors of the same encoder.

Li et al., "Text Is All You Need: Learning Language Representations for Sequential Recommendation", 2023. Theirs is
Longformer with its pre-trained weights; this one is small, has no pre-trained weights and full attention. The four
embeddings, the order and the score are theirs: the cosine of two `<s>` vectors, over a temperature.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.files import atomic, read_json, write_json
from llmsrec.models.cf.block import FORBIDDEN
from llmsrec.models.cf.teacher import INIT_STD, drop
from llmsrec.models.text.item_texts import Batch, ItemTexts
from llmsrec.progress import Progress

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TEXTS = ("offsets", "tokens", "words")  # of `ItemTexts`
TYPES = 4  # of a token: `<s>`, key, value, padding
WORD_STD = 0.08
BATCH_TOKENS = 16_384


class Block(nn.Module):
    """BERT's layer: self-attention and a feed-forward layer, each with a LayerNorm after its residual sum."""

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, feed_forward * dim)
        self.outer = nn.Linear(feed_forward * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor, queries: int) -> Tensor:
        """One layer's vectors to the next one's, of the first Q positions.

        Args:
            x: `[B, L, d]`.
            mask: `[B, 1, 1, L]`, added to the attention scores.
            queries: Q.

        Returns:
            `[B, Q, d]`.
        """
        rate = self.dropout if self.training else 0.0
        own = x[:, :queries]
        key, value = (self._by_head(part) for part in self.key_value(x).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(self._by_head(self.query(own)), key, value, attn_mask=mask)
        own = self.attention_norm(own + drop(self.output(attended.transpose(1, 2).flatten(2)), rate))
        return self.feed_forward_norm(own + drop(self.outer(F.gelu(self.inner(own))), rate))

    def pass_on(self, turn: Tensor) -> None:
        """Let the attention layer put out the weighted mean of its inputs: `turn` `[d, d]` is orthogonal."""
        self.key_value.weight[len(turn) :] = turn
        self.output.weight.copy_(turn.T)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class RecFormer(nn.Module):
    """Histories as texts in, a vector of each out.

    Args:
        vocabulary: ids of tokens, `ItemTexts.vocabulary`.
        dim: the width d of all vectors.
        layers: blocks.
        heads: attention heads a block.
        feed_forward: the inner width of the feed-forward layers, as a multiple of d.
        dropout: on embeddings and both sublayers, while training.
        max_items: items of a history that are read, the newest.
        max_tokens: tokens of a history that are read, `<s>` included.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        max_items: int,
        max_tokens: int,
    ) -> None:
        super().__init__()
        self.config = {
            "vocabulary": vocabulary,
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "feed_forward": feed_forward,
            "dropout": dropout,
            "max_items": max_items,
            "max_tokens": max_tokens,
        }
        self.max_items, self.max_tokens, self.dropout = max_items, max_tokens, dropout
        self.word = nn.Embedding(vocabulary, dim)
        self.position = nn.Embedding(max_tokens, dim)
        self.token_type = nn.Embedding(TYPES, dim)
        self.item_position = nn.Embedding(max_items + 1, dim)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(Block(dim, heads, feed_forward, dropout) for _ in range(layers))
        self.hidden_word = nn.Linear(dim, dim)
        self.hidden_word_norm = nn.LayerNorm(dim)
        self.word_bias = nn.Parameter(torch.zeros(vocabulary))

    def initialise(self, generator: torch.Generator) -> "RecFormer":
        """Draw all weights anew from `generator` alone: tables N(0, .02), maps N(0, 1 / width), biases 0.

        Words are larger than what says where they stand, and what an attention layer passes on begins as the mean of
        what it sees (mimetic initialisation, Trockman & Kolter 2023), so that `<s>` begins as the mean of the words.
        With BERT's N(0, .02) for all, nothing of them comes to `<s>` at a width of 64.
        """
        dim = self.word.embedding_dim
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Embedding):
                    module.weight.normal_(0.0, WORD_STD if module is self.word else INIT_STD, generator=generator)
                elif isinstance(module, nn.Linear):
                    module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
                    module.bias.zero_()
            for module in self.modules():
                if isinstance(module, Block):
                    module.pass_on(torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0])
        return self

    def embed(self, batch: Batch) -> Tensor:
        """`[B, L, d]`: the sum of word, position, type and item position, normalised (RECFORMER, Eq. 1)."""
        device = self.word.weight.device
        tokens, types, items = (torch.from_numpy(part).to(device) for part in (batch.tokens, batch.types, batch.items))
        positions = self.position.weight[: tokens.shape[1]]
        return self.norm(self.word(tokens) + positions + self.token_type(types) + self.item_position(items))

    def forward(self, batch: Batch) -> Tensor:
        """The last hidden states `[B, L, d]`; at padded positions the values mean nothing."""
        return self._encode(batch, batch.tokens.shape[1])

    def start(self, batch: Batch) -> Tensor:
        """The vectors of `<s>`, `[B, d]`, of length 1: what stands for a history, or for an item."""
        return F.normalize(self._encode(batch, 1)[:, 0], dim=-1)

    def words(self, hidden: Tensor) -> Tensor:
        """Logits `[N, W]` of the hidden tokens, by hidden states `[N, d]` at their places (BERT's head, tied)."""
        normed = self.hidden_word_norm(F.gelu(self.hidden_word(hidden)))
        return F.linear(normed, self.word.weight, self.word_bias)

    @torch.no_grad()
    def vectors(self, texts: ItemTexts, histories: Sequences, label: str = "") -> Tensor:
        """`[U + 1, d]` on the CPU: each user's `start` after the newest `max_items` events, without dropout.

        Row 0 is the vector of an empty history. Histories of like lengths share a batch, so that little is padded.
        Several processes share the batches; each returns all vectors.

        Args:
            label: names the work where it takes long enough to say how far it is.
        """
        was_training = self.training
        self.eval()
        ends = histories.offsets[1:]
        starts = np.maximum(histories.offsets[:-1], ends - self.max_items)
        lengths = texts.lengths(histories.items, starts, ends, self.max_tokens)
        vectors = torch.zeros(len(lengths), self.norm.weight.shape[0], device=self.norm.weight.device)
        order = np.argsort(lengths, kind="stable")
        begin = number = 0
        with Progress(len(order), label=label, tokens=int(lengths.sum())) as progress:
            while begin < len(order):
                window = lengths[order[begin : begin + BATCH_TOKENS]]  # more do not fit, of a token each
                fit = window * np.arange(1, len(window) + 1) <= BATCH_TOKENS
                users = order[begin : begin + max(1, int(fit.sum()))]
                if number % distributed.size() == distributed.rank():
                    batch = texts.batch([histories.of(user)[0] for user in users], self.max_items, self.max_tokens)
                    vectors[torch.from_numpy(users)] = self.start(batch)
                number += 1
                progress.add(len(users), int(lengths[users].sum()))
                begin += len(users)
        self.train(was_training)
        return distributed.add_up(vectors).cpu()

    def item_vectors(self, texts: ItemTexts) -> Tensor:
        """`[I + 1, d]` on the CPU: each item as a history of its own; row 0 is padding."""
        alone = np.arange(texts.items + 1)
        vectors = self.vectors(texts, Sequences(np.concatenate([[0], alone]), alone[1:].astype(np.int32), alone[1:]))
        vectors[0] = 0
        return vectors

    def _encode(self, batch: Batch, queries: int) -> Tensor:
        x = drop(self.embed(batch), self.dropout if self.training else 0.0)
        present = torch.arange(x.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
        mask = torch.where(present, 0.0, FORBIDDEN).to(x.device)[:, None, None]
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask, queries if number == len(self.blocks) else x.shape[1])
        return x


def save(folder: Path, model: RecFormer, texts: ItemTexts, items: Tensor) -> None:
    """Write an encoder, its items' texts, and the items' vectors `[I + 1, d]` that users' are compared with.

    Raises:
        DataError: a file cannot be written.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()} | {"items": items}
    tensors |= {f"texts/{name}": torch.from_numpy(getattr(texts, name)) for name in TEXTS}
    with atomic(folder / WEIGHTS) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(folder / CONFIG, model.config)


def load(folder: Path) -> tuple[RecFormer, ItemTexts, Tensor]:
    """Read what `save` wrote; the model is in evaluation mode.

    Raises:
        DataError: a file is missing or damaged, or the two do not belong together.
    """
    config, path = read_json(folder / CONFIG), folder / WEIGHTS
    try:
        tensors = load_file(path)
        texts = ItemTexts(**{name: tensors[f"texts/{name}"].numpy() for name in TEXTS})
        model = RecFormer(**config)
        own = {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
        model.load_state_dict(own)
        return model.eval(), texts, tensors["items"]
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} holds no usable RECFORMER ({str(error).splitlines()[0]}); delete the folder and run its "
            "stage again (`dvc repro baselines/dvc.yaml:train@recformer-retrieval`)."
        ) from error
