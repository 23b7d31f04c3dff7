"""A training step of LLM-SRec and the embedding of all items, beside the plain form (benchmarks/plain.py).

    python -m benchmarks.step --files data/beauty             # Beauty's real titles; all parts, about four minutes
    python -m benchmarks.step --files data/beauty --part last --shape wide

Parts: `last` (users a second, a target each), `all` (targets a second, every position, beside separate prompts of the
last 10 items), `items` (all items after the first time), `memory` (peak of ten steps, each side in its own process),
`profile` (where a step's time goes), `flops` (floating-point operations of a step: needed, ours, plain) and `options`
(ours with `backbone.dtype: bfloat16` and with `backbone.compile` beside ours without). Each user has four candidates of
their own, batches are of 20, weights are random; the sides take turns.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import common, flops
from benchmarks.common import Figures, Shape
from benchmarks.plain import Plain
from llmsrec.engine.backbone import Backbone
from llmsrec.engine.prefix_store import Budget
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.training.batches import WINDOW, Samples
from llmsrec.training.retrieval import step_losses

SHAPES = {"small": common.SMALL, "wide": common.WIDE}
PARTS = ("last", "all", "items", "memory", "profile", "flops", "options")
BATCH = 20
BATCHES = {"small": 8, "wide": 5}  # that are timed
ITEMS = 512  # items that the plain form embeds
EMBED = 128  # of them at a time
GROUPS = {  # of operators, for the profile
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::matmul"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_attention_math",
                  "aten::_scaled_dot_product_flash_attention_for_cpu_backward", "aten::softmax", "aten::_softmax"),
    "copies and indexing": ("aten::copy_", "aten::cat", "aten::index", "aten::index_put_", "aten::_index_put_impl_",
                            "aten::gather", "aten::scatter_add_", "aten::fill_", "aten::zero_", "aten::index_select"),
}  # fmt: skip


class Sides:
    """Both forms over the same users, items, heads and language model, with `options` of params.yaml's `backbone`.

    Args:
        shape: of a language model with random weights; or the folder of one with its own.
        batches: how many are timed, of `batch` users each.
    """

    def __init__(
        self, folder: Path, shape: Shape | Path, targets: str, batches: int, cache: Path, batch: int = BATCH,
        **options: Any,
    ) -> None:  # fmt: skip
        self.batch = batch
        names = common.titles(folder)
        self.settings = common.settings().model.model_copy(update={"negatives": "own"})
        of = common.settings().backbone.model_copy(update=options)
        if isinstance(shape, Path):
            language_model, tokenizer = common.loaded(shape, getattr(torch, of.dtype))
        else:
            language_model, tokenizer = common.language_model(names, shape)
            language_model.to(getattr(torch, of.dtype))
        backbone = Backbone(language_model.model, tokenizer, True, language_model.config.max_position_embeddings)
        teacher = common.teacher(len(names))
        self.model = LLMSRec(backbone, teacher, names, self.settings, 0, Budget.gib(of.prefixes, cache))
        self.model.configure_layers(of.gradient_checkpointing, of.compile)
        self.plain = Plain(language_model, tokenizer, names, self.settings.title_tokens, self.model)
        train = common.interactions(folder).drop_last(2)
        history = self.settings.history if targets == "last" else self.model.prompts.always_fit
        self.samples = Samples.of(train, len(names), targets, history)  # type: ignore[arg-type]
        self.separate = Samples.of(train, len(names), "all", 1)  # a row a target
        # Training sorts windows of batches by length: of one such window every n-th batch, short and long alike.
        rng = np.random.default_rng(0)
        window = rng.choice(len(self.samples.users), WINDOW * batch, replace=False)
        lengths = self.model.prompts.user_lengths(self.samples.histories(window)[0])
        window = window[np.argsort(lengths, kind="stable")].reshape(-1, batch)
        chosen = ((np.arange(batches) + 0.5) * len(window) / batches).astype(int)
        self.batches = rng.permutation(window[chosen])
        self.rows = rng.permutation(self.batches.ravel())
        self.model.train()

    def ours(self, batches: int | None = None) -> int:
        """Steps on all rows, of like length together as in training; the number of targets."""
        count = 0
        for number, rows in enumerate(self.batches[:batches]):
            self.model.zero_grad(set_to_none=True)
            rng = np.random.default_rng(number)
            parts = step_losses(self.model, self.samples, rows, self.settings, rng)
            torch.stack(list(parts.values())).sum().backward()
            count += len(self.samples.targets(rows)[0])
        return count

    def theirs(self, batches: int | None = None) -> int:
        """Plain steps on the same users in random order; with several targets a row, a prompt for one of them each."""
        count = 0
        for number, begin in enumerate(range(0, len(self.rows), self.batch)):
            if number == batches:
                break
            self.model.zero_grad(set_to_none=True)
            self.plain.loss(*self.plain_batch(self.rows[begin : begin + self.batch], number)).backward()
            count += min(self.batch, len(self.rows) - begin)
        return count

    def plain_batch(self, rows: np.ndarray, seed: int) -> tuple[Any, ...]:
        """What `Plain.loss` takes: each row with one of its targets, drawn, and its last items before it."""
        samples, rng = self.samples, np.random.default_rng(seed)
        users, places = samples.targets(rows)
        counts = samples.stop[rows] - samples.first[rows] + 1
        chosen = counts.cumsum() - counts + rng.integers(counts)
        users, places = users[chosen], places[chosen]
        sequences, history = samples.sequences, self.settings.history
        begins = np.maximum(sequences.offsets[users], places - history)
        spans = [slice(a, b) for a, b in zip(begins, places, strict=True)]
        negatives = samples.negatives(users, self.settings.candidates - 1, np.random.default_rng(seed))
        return (
            users,
            [sequences.items[span] for span in spans],
            [sequences.timestamps[span] for span in spans],
            samples.before(users, places, self.model.teacher.max_length),
            np.concatenate([sequences.items[places][:, None], negatives], axis=1).astype(np.int64),
        )

    @torch.no_grad()
    def embed_plainly(self) -> int:
        """Some of the items, drawn once."""
        chosen = 1 + np.random.default_rng(0).choice(self.samples.items, ITEMS, replace=False)
        for begin in range(0, ITEMS, EMBED):
            self.plain.item_vectors(chosen[begin : begin + EMBED])
        return ITEMS


def rate(call: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """A side of `common.in_turn`: what `call` counts, a second of `clock`."""

    def measured() -> float:
        counted: list[int] = []
        seconds = common.timed(lambda: counted.append(call()), clock)
        return counted[0] / seconds

    return measured


def compare(unit: str, ours: Callable[[], int], plain: Callable[[], int]) -> Figures:
    figures = common.in_turn({f"plain, {unit}/s": rate(plain), f"ours, {unit}/s": rate(ours)})
    figures["ours / plain"] = common.ratios(figures, f"ours, {unit}/s", f"plain, {unit}/s")
    return figures


def compare_options(ours: Sides, sides_with: Callable[..., Sides]) -> Figures:
    options: dict[str, dict[str, Any]] = {"bfloat16": {"dtype": "bfloat16"}, "compiled": {"compile": True}}
    sides = {"float32": ours} | {name: sides_with(**values) for name, values in options.items()}
    figures = common.in_turn({f"{name}, users/s": rate(side.ours) for name, side in sides.items()})
    for name in options:
        figures[f"{name} / float32"] = common.ratios(figures, f"{name}, users/s", "float32, users/s")
    return figures


def embed(sides: Sides) -> int:
    return len(sides.model.item_vectors()) - 1


def same_loss(sides: Sides) -> float:
    """How far the two forms' losses of one batch are apart, as a share; see benchmarks/plain.py for why not 0."""
    rows = sides.rows[: sides.batch]
    with torch.no_grad():
        plain = float(sides.plain.loss(*sides.plain_batch(rows, 0)))
        parts = step_losses(sides.model, sides.samples, rows, sides.settings, np.random.default_rng(0))
    return abs(float(sum(parts.values())) - plain) / plain


def where_time_goes(steps: Callable[[], int]) -> dict[str, float]:
    """Percent of operators' own time in each of `GROUPS`, and how much of the whole time no operator was running."""
    steps()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        seconds = common.timed(steps)
    shares = dict.fromkeys([*GROUPS, "everything elementwise"], 0.0)
    for event in profiler.key_averages():
        group = next((name for name, keys in GROUPS.items() if event.key in keys), "everything elementwise")
        if event.key.startswith("aten::"):
            shares[group] += event.self_cpu_time_total / 1e6
    shares["outside torch (Python, numpy, tokenizer)"] = seconds - sum(shares.values())
    return {name: 100 * value / seconds for name, value in shares.items()}


def count_operations(sides: Sides, shape: Shape) -> dict[str, float]:
    """Gigaflop of one step: of our batches' mean, and of as many plain steps'."""
    batches = 4 if shape == common.SMALL else 2
    needed = flops.needed(sides.model, sides.samples, sides.rows, shape) / len(sides.rows) * BATCH
    return {
        "needed": needed / 1e9,
        "done by us": flops.counted(lambda: sides.ours()) / len(sides.rows) * BATCH / 1e9,
        "done by the plain form": flops.counted(lambda: sides.theirs(batches)) / batches / 1e9,
    }


def peak_of(side: str, shape: str, folder: Path, cache: Path, targets: str) -> float:
    """MB, of a process that only trains ten steps in one form."""
    arguments = ["--child", side, shape, targets, str(cache), "--data", str(folder)]
    command = [sys.executable, "-m", "benchmarks.step", *arguments]
    done = subprocess.run(command, cwd=common.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def child(side: str, shape: str, targets: str, cache: str, folder: Path) -> None:
    sides = Sides(folder, SHAPES[shape], targets, 10, Path(cache))
    (sides.ours if side == "ours" else sides.theirs)(10)
    print(common.peak())


def report(folder: Path, parts: list[str], shapes: list[str]) -> Iterator[tuple[str, Any]]:
    """Runs the parts; yields each one's title and figures once they are printed."""
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary)
        for name in shapes:
            shape = SHAPES[name]
            sides = Sides(folder, shape, "last", BATCHES[name], cache)
            if "last" in parts:
                title = f"targets: last, {shape}; one batch's losses differ by {same_loss(sides):.1e}"
                yield title, compare("users", sides.ours, sides.theirs)
            if "all" in parts and name == "small":
                every = Sides(folder, shape, "all", BATCHES[name] // 2, cache)
                yield f"targets: all, {shape}", compare("targets", every.ours, every.theirs)
            if "items" in parts and name == "small":
                figures = compare("items", partial(embed, sides), sides.embed_plainly)
                yield f"embedding {sides.samples.items:,} items after the first time, {shape}", figures
            if "options" in parts:
                title = f"options of the backbone, targets: last, {shape}"
                yield title, compare_options(sides, partial(Sides, folder, shape, "last", BATCHES[name], cache))
            if "profile" in parts:
                of = {"plain": where_time_goes(partial(sides.theirs, 2)), "ours": where_time_goes(sides.ours)}
                yield f"where a step's time goes (%), targets: last, {shape}", of
            if "flops" in parts:
                counts = count_operations(sides, shape)
                seconds = common.timed(sides.ours) / len(sides.rows) * BATCH
                product = common.matrix_rate()
                counts["our GFlop/s"] = counts["done by us"] / seconds
                counts["a large product's GFlop/s"] = product
                yield f"gigaflop a step, targets: last, {shape}", counts
            if "memory" in parts:
                megabytes = {side: peak_of(side, name, folder, cache, "last") for side in ("plain", "ours")}
                yield f"peak MB of ten steps, targets: last, {shape}", megabytes


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this language model")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        side, shape, targets, cache = chosen.child
        child(side, shape, targets, cache, chosen.data)
        return
    print(common.machine(), flush=True)
    results = {}
    with common.data(chosen) as folder:
        for title, figures in report(folder, chosen.part or list(PARTS), chosen.shape or list(SHAPES)):
            print(f"\n{title}")
            results[title] = figures
            show(figures)
    common.write(chosen.json, results)


def show(figures: Any) -> None:
    """Lists as median and spread, single numbers as they are, two sides beside each other."""
    first = next(iter(figures.values()))
    if isinstance(first, list):
        common.show(figures)
    elif isinstance(first, dict):
        print(f"{'':<44}" + "".join(f"{side:>12}" for side in figures))
        for name in first:
            print(f"{name:<44}" + "".join(f"{of[name]:>12.1f}" for of in figures.values()))
    else:
        for name, value in figures.items():
            print(f"{name:<44}{value:>12,.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
