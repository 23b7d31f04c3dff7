"""What a user costs who comes back with one item more, beside one who comes for the first time (`engine/kept.py`).

    python -m benchmarks.returning [--bundle models/bundle] [--data data] [--rounds 5] [--json FILE]

Processor time of a call in the service's `llm` worker, calls one by one and 32 at once: in each round as many new users
as ones that come back, with histories of the same lengths, none of which was asked for before. Then the language model
alone, prompt by prompt, with random weights of SmolLM2-135M's shape. At last how many calls this can help: of those
that the users of `--data` would make, one after each event but their first.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks import common
from benchmarks.clients import closed
from benchmarks.device import SHAPES
from benchmarks.service import DAY, START, K, descendants, ours, processor_time, registered, running
from llmsrec.engine import embedded
from llmsrec.engine.backbone import Backbone
from llmsrec.engine.kept import UNLIMITED, Kept
from llmsrec.engine.torch_layers import TorchLayers
from llmsrec.models.llm.retrieval import LLMSRec

CALLS, AT_ONCE = 128, (1, 32)  # of a round, of each kind
LONGEST_S = 600.0  # that they may take
WHO = ("who is new", "who comes back")
PROMPTS, TOGETHER = 8, (1, 8)  # of a round, of the wide model
LONGEST = 1024  # tokens


def histories(items: int, longest: int, count: int, seed: int) -> list[np.ndarray]:
    """Of 2 to `longest` items, another one each."""
    random = np.random.default_rng(seed)
    return [random.permutation(items)[: random.integers(2, longest + 1)] for _ in range(count)]


def body(asins: list[str], history: np.ndarray) -> bytes:
    """A call of one request."""
    events = [{"parent_asin": asins[item], "timestamp": START + day * DAY} for day, item in enumerate(history)]
    return json.dumps({"inputs": [{"history": events, "k": K, "tower": "llm"}]}).encode()


def compared(
    spent: Callable[[list[np.ndarray], int], float],
    items: int,
    longest: int,
    count: int,
    sizes: tuple[int, ...],
    rounds: int,
    name: str,
) -> common.Figures:
    """Processor ms of new users and of those who come back, in turn, and their ratio; a round before warms up.

    Args:
        spent: processor ms of each of some histories, so many of which are read at once.
        count: histories of each kind, of a round.
        sizes: how many are read at once.
        name: of what is measured, by such a number.
    """  # fmt: skip
    figures: common.Figures = {}
    for number in range(rounds + 1):
        for size in sizes:
            new, back = (histories(items, longest, count, 10 * number + size + kind) for kind in (0, 1000))
            spent([history[:-1] for history in back], size)
            times = spent(new, size), spent(back, size)
            if number:
                for who, value in zip(WHO, times, strict=True):
                    figures.setdefault(f"{who}, {name.format(size)}, ms", []).append(value)
    for size in sizes:
        sides = [f"{who}, {name.format(size)}, ms" for who in WHO]
        figures[f"new / back, {name.format(size)}"] = common.ratios(figures, *sides)
    return figures


def served(bundle: Path, rounds: int) -> common.Figures:
    """A call in the `llm` worker."""
    asins = pl.read_parquet(bundle / "items.parquet")["parent_asin"].to_list()
    longest = json.loads((bundle / "config.json").read_text())["prompts"]["history"]
    with (
        tempfile.TemporaryDirectory() as place,
        registered(bundle, Path(place), 1),
        running(ours("--poll", "3600"), Path(place)) as service,
    ):
        (worker,) = [pid for pid in descendants(service.pid) if '"llm": true' in _command(pid)]

        def spent(of: list[np.ndarray], at_once: int) -> float:
            before, bodies = processor_time([worker]), [body(asins, history) for history in of]
            measured = closed(service.port, bodies, at_once, LONGEST_S, most=len(of))
            assert len(measured.times[200]) == len(of)
            return 1000 * (processor_time([worker]) - before) / len(of)

        return compared(spent, len(asins), longest, CALLS, AT_ONCE, rounds, "{} at once")


def wide(titles: list[str], rounds: int) -> common.Figures:
    """A prompt in a language model of SmolLM2-135M's shape."""
    tokenizer = embedded.train_tokenizer(titles, 16_384, np.random.default_rng(0))
    torch.manual_seed(0)
    base = Backbone(SHAPES["135M"].llama("float32", max_position_embeddings=LONGEST), tokenizer, True, LONGEST)
    model = LLMSRec(base, common.teacher(len(titles)), titles, common.settings().model, 0)
    assert model.decoder is not None
    kept = Kept(TorchLayers(model.decoder, model.item_inputs, model.user_out), UNLIMITED)

    def spent(of: list[np.ndarray], together: int) -> float:
        before = time.process_time()
        for start in range(0, len(of), together):
            batch = of[start : start + together]
            times = [START + DAY * np.arange(len(history)) for history in batch]
            with torch.no_grad():
                kept.read_out(model.prompts.users([1 + history for history in batch], times))
        return 1000 * (time.process_time() - before) / len(of)

    return compared(spent, len(titles), model.prompts.history, PROMPTS, TOGETHER, rounds, "135 M, {} together")


def helped(folder: Path, longest: int) -> dict[str, float]:
    """Which share of calls, one after each event but the first, begin as the call before did."""
    counts = np.diff(common.interactions(folder).offsets)[1:]
    calls = (counts - 1).sum()
    return {"calls": float(calls), "share": float((np.minimum(counts, longest) - 1).sum() / calls)}


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description="What a user costs who comes back with one item more.")
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(common.machine())
    figures: common.Figures = {}
    parts = partial(served, options.bundle), partial(wide, common.titles(options.data))
    for part in parts:
        measured = part(options.rounds)
        common.show(measured)
        figures |= measured
    longest = common.settings().model.history
    share = helped(options.data, longest)
    print(f"{share['share']:.1%} of {share['calls']:,.0f} calls begin as the one before: up to {longest} items")
    common.write(options.json, {**figures, "helped": share})


if __name__ == "__main__":
    main()
