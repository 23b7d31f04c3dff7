"""SASRec's training speed, beside the plain form and beside the machine's matrix products.

    python -m benchmarks.sasrec --files data/beauty

Binary cross-entropy: targets a second of `train_epoch`, beside a loop that samples user by user with numpy and pads
every row to 50; its model has the same shape, put together from torch's own modules. Full cross-entropy: the
floating-point operations that the formulas need, a second, beside a large product's. Prefixes: samples a second of the
preset `teacher/strong`, beside the same whose last block computes all positions. All take turns.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common
from llmsrec import params
from llmsrec.data.sequences import Sequences
from llmsrec.models.cf.sasrec import SASRec
from llmsrec.models.losses import next_item as losses
from llmsrec.training.next_item import BETAS, POOL, Samples, build, train_epoch

PLAIN_BATCHES = 8
PREFIX_BATCHES = 32
SETTINGS: dict[str, Any] = {
    "items": "id", "dim": 64, "blocks": 2, "heads": 1, "max_length": 50, "dropout": 0.2, "norm": "pre",
    "feed_forward": 1, "activation": "relu", "low_pass": 0.0, "samples": "sequences", "label_smoothing": 0.0,
    "negatives": 1, "gbce_t": 0.0, "batch_size": 128, "lr": 0.001, "schedule": "constant", "epochs": 1, "patience": 1,
    "seed": 0,
}  # fmt: skip


def main() -> None:
    chosen = common.arguments(__doc__).parse_args()
    print(common.machine(), flush=True)
    with common.data(chosen) as folder:
        figures = measure(common.interactions(folder).drop_last(2), len(common.titles(folder)))
    common.show(figures)
    common.write(chosen.json, figures)


def measure(train: Sequences, items: int) -> common.Figures:
    """Each figure's values, one a repetition; a ratio is of two timings that follow each other."""
    bce, ce = (params.SASRec(**SETTINGS, loss=loss) for loss in ("bce", "ce"))
    strong = common.strong()
    rng = np.random.default_rng(0)
    everyone = rng.permutation(np.flatnonzero(train.lengths() >= 2))
    few = everyone[: PLAIN_BATCHES * bce.batch_size]
    histories = {int(user): train.of(user)[0].tolist() for user in few}
    models = [build(items, of) for of in (bce, ce, strong)]
    models.append(AllPositions(items, **strong.shape()))
    models[3].load_state_dict(models[2].state_dict())
    plain = Plain(items, bce)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in models[0].parameters())
    adam = torch.optim.Adam(plain.parameters(), lr=bce.lr)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.001, betas=BETAS, fused=True) for model in models]
    sequences = some(Samples.of(train, bce), POOL * bce.batch_size, rng)
    prefixes = some(Samples.of(train, strong), PREFIX_BATCHES * strong.batch_size, rng)
    count = int((sequences.lengths - 1).sum())
    few_count = int(np.minimum(train.lengths()[few] - 1, bce.max_length).sum())

    def plainly() -> float:
        return few_count / common.timed(lambda: plain_steps(plain, adam, histories, items, bce, rng))

    def ours(number: int, samples: Samples, targets: int, settings: params.SASRec) -> float:
        return targets / common.timed(partial(train_epoch, models[number], optimizers[number], samples, settings, 0))

    product, whole, alone = "large fp32 product, GFlop/s", "full CE, whole step", "full CE, loss and gradients"
    last, every = "prefixes, last position of the last block", "prefixes, all positions of it"
    figures = common.in_turn(
        {
            "BCE, plain, targets/s": plainly,
            "BCE, ours, targets/s": lambda: ours(0, sequences, count, bce),
            product: common.matrix_rate,
            f"{whole}, targets/s": lambda: ours(1, sequences, count, ce),
            f"{alone}, needed GFlop/s": lambda: loss_rate(items, ce.dim),
            f"{last}, targets/s": lambda: ours(2, prefixes, len(prefixes.ends), strong),
            f"{every}, targets/s": lambda: ours(3, prefixes, len(prefixes.ends), strong),
        }
    )
    figures["BCE, ours / plain"] = common.ratios(figures, "BCE, ours, targets/s", "BCE, plain, targets/s")
    figures["prefixes, last / all positions"] = common.ratios(figures, f"{last}, targets/s", f"{every}, targets/s")
    each = needed(sequences.lengths - 1, items, ce) / count / 1e9
    figures[f"{whole}, needed GFlop/s"] = [each * rate for rate in figures[f"{whole}, targets/s"]]
    for part in (whole, alone):
        figures[f"{part}, % of the product"] = [
            100 * rate for rate in common.ratios(figures, f"{part}, needed GFlop/s", product)
        ]
    return figures


class AllPositions(SASRec):
    """With the obvious form of `last_only`."""

    def last_only(self, items: Tensor) -> Tensor:
        return self.last(items)


def some(samples: Samples, count: int, rng: np.random.Generator) -> Samples:
    """`count` of the samples, drawn by `rng`."""
    chosen = rng.permutation(len(samples.ends))[:count]
    return Samples(samples.train, samples.ends[chosen], samples.lengths[chosen])


class Plain(nn.Module):
    """The same pre-norm transformer from torch's own modules."""

    def __init__(self, items: int, settings: params.SASRec) -> None:
        super().__init__()
        self.item = nn.Embedding(items + 1, settings.dim, padding_idx=0)
        self.position = nn.Embedding(settings.max_length, settings.dim)
        self.dropout = nn.Dropout(settings.dropout)
        layer = nn.TransformerEncoderLayer(
            settings.dim, settings.heads, settings.dim, settings.dropout, batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(settings.dim)
        self.blocks = nn.TransformerEncoder(layer, settings.blocks, norm, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(settings.max_length))

    def forward(self, items: Tensor) -> Tensor:
        x = self.item(items) * self.item.embedding_dim**0.5 + self.position.weight
        return self.blocks(self.dropout(x), mask=self.mask, is_causal=True)


def plain_steps(
    model: Plain,
    optimizer: torch.optim.Optimizer,
    histories: dict[int, list[int]],
    items: int,
    settings: params.SASRec,
    rng: np.random.Generator,
) -> None:
    """The plain form: each user's row filled in a loop, negatives drawn one by one, every row padded in full."""
    length, everyone = settings.max_length, list(histories)
    model.train()
    for _ in range(len(everyone) // settings.batch_size):
        shape = (settings.batch_size, length)
        inputs, positives, negatives = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        for row in range(settings.batch_size):
            history = histories[everyone[rng.integers(len(everyone))]]
            seen, following = set(history), history[-1]
            for column, item in zip(range(length - 1, -1, -1), reversed(history[:-1]), strict=False):
                inputs[row, column], positives[row, column] = item, following
                negative = rng.integers(1, items + 1)
                while negative in seen:
                    negative = rng.integers(1, items + 1)
                negatives[row, column], following = negative, item
        x, y, other = (torch.from_numpy(part) for part in (inputs, positives, negatives))
        users = model(x)
        positive, negative = (users * model.item(y)).sum(-1), (users * model.item(other)).sum(-1)
        real = y != 0
        ones, zeros = torch.ones_like(positive[real]), torch.zeros_like(positive[real])
        loss = F.binary_cross_entropy_with_logits(positive[real], ones)
        loss = loss + F.binary_cross_entropy_with_logits(negative[real], zeros)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def needed(lengths: np.ndarray, items: int, settings: params.SASRec) -> float:
    """Floating-point operations of a pass over sequences with so many targets, forward and backward: matrix products
    alone, without padding, causal."""
    dim, blocks = settings.dim, settings.blocks
    projections = 2 * 6 * dim**2 * blocks * lengths.sum()
    attention = 2 * 2 * dim * blocks * (lengths * (lengths + 1) / 2).sum()
    return float(3 * (2 * items * dim * lengths.sum() + projections + attention))


def loss_rate(items: int, dim: int) -> float:
    """Needed GFlop/s of the full cross-entropy alone, with both gradients, on as many positions as a batch has."""
    users, table = torch.randn(768, dim, requires_grad=True), torch.randn(items + 1, dim, requires_grad=True)
    chosen = torch.randint(1, items + 1, (768,))
    seconds = common.timed(lambda: losses.cross_entropy(users, chosen, table).backward())
    return 6 * 768 * items * dim / seconds / 1e9


if __name__ == "__main__":
    main()
