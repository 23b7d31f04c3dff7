"""Large language models on the device that there is: tokens a second, users a second and memory.

    python -m benchmarks.device --files data/beauty                # SmolLM2-135M's shape and Llama-3.2-3B's
    python -m benchmarks.device --shape 135M --seconds 10             # one of them, briefly

Weights are random and bfloat16, titles and events are real, text is split by a tokenizer that is trained on the titles.
Rows: all items after a first time, which fills the kept prefixes; users as in `evaluate`; training steps of the paper's
setting (a batch of 20, own negatives, the last target) and of the committed one (all targets, shared negatives), which
are timed one after the other for `--seconds`. Tokens are those of users' prompts, or of items' whole prompts. An epoch
of the paper's Scientific (23,627 users, Table 10) is computed from a step's users a second.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stages  # noqa: F401  what CUDA needs in the environment to be deterministic
from benchmarks import common
from benchmarks.memory import GIB, LLAMA_3B, Shape
from llmsrec.engine import embedded
from llmsrec.engine.backbone import Backbone
from llmsrec.engine.prefix_store import Budget
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.training.loop import schedule
from llmsrec.training.retrieval import training_samples

SHAPES = {"135M": Shape(576, 1536, 30, 9, 3, 49_152, 64), "3B": LLAMA_3B}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of `model` and `train`
    "steps, last targets": ({"negatives": "own"}, {"targets": "last"}),
    "steps, all targets": ({}, {"targets": "all"}),
}
LONGEST = 8_192  # tokens of a prompt
PREFIXES = 40.0  # GiB of the device
WARM_UP = 3  # steps
USERS = 1_000  # that are embedded
SCIENTIFIC = 23_627

Row = dict[str, float]


def build(shape: Shape, names: list[str], of: Any) -> LLMSRec:
    """LLM-SRec around a random Llama on the device."""
    tokenizer = embedded.train_tokenizer(names, 16_384, np.random.default_rng(0))
    torch.manual_seed(0)
    with torch.device(common.DEVICE):
        language_model = shape.llama("bfloat16", max_position_embeddings=LONGEST)
    base = Backbone(language_model, tokenizer, True, LONGEST)
    return LLMSRec(base, common.teacher(len(names)), names, of, 0, Budget(int(PREFIXES * GIB)))


def peak() -> float:
    """GiB of the device since the last call."""
    if common.DEVICE != "cuda":
        return float("nan")
    value = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.reset_peak_memory_stats()
    return value


def inference(model: LLMSRec, folder: Path) -> Iterator[tuple[str, Row]]:
    """All items twice, and some users, after others to warm up."""
    items = len(model.teacher.item_vectors()) - 1
    lengths = model.prompts.item_prefixes(np.arange(1, items + 1))[1] + len(model.prompts.item_tail)
    for title in ("items, the first time", "items, prefixes kept"):
        spent = common.timed(model.item_vectors)
        yield title, {"rows/s": items / spent, "tokens/s": float(lengths.sum()) / spent, "GiB": peak()}
    histories = common.interactions(folder).drop_last(1)
    users = 1 + np.random.default_rng(0).permutation(histories.users)
    model.user_vectors(histories, users[USERS : 2 * USERS])
    users = users[:USERS]
    spans = [slice(a, b) for a, b in zip(histories.offsets[users], histories.offsets[users + 1], strict=True)]
    tokens = float(model.prompts.user_lengths([histories.items[span] for span in spans]).sum())
    spent = common.timed(lambda: model.user_vectors(histories, users))
    yield "users", {"rows/s": len(users) / spent, "tokens/s": tokens / spent, "GiB": peak()}


def training(model: LLMSRec, folder: Path, seconds: float) -> Iterator[tuple[str, Row]]:
    """Steps of both settings."""
    sequences, committed = common.interactions(folder).drop_last(2), common.settings()
    for title, (of_model, of_train) in SETTINGS.items():
        settings = committed.model.model_copy(update=of_model)
        train = committed.train.model_copy(update=of_train)
        samples, lengths = training_samples(model, sequences, train)
        draws = schedule(lengths, train)
        common.run_steps(model, samples, itertools.islice(draws, WARM_UP), settings)
        peak()
        users = targets = tokens = 0
        spent = 0.0
        while spent < seconds:
            draw = next(draws)
            spent += common.timed(partial(common.run_steps, model, samples, [draw], settings))
            users, targets = users + len(draw[1]), targets + len(samples.targets(draw[1])[0])
            tokens += int(lengths[draw[1]].sum())
        rates = {"rows/s": users / spent, "targets/s": targets / spent, "tokens/s": tokens / spent, "GiB": peak()}
        yield title, rates | {"Scientific, min/epoch": SCIENTIFIC / (users / spent) / 60}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this language model")
    parser.add_argument("--seconds", type=float, default=20.0, help="that each setting's steps are timed for")
    chosen = parser.parse_args()
    torch.use_deterministic_algorithms(True)  # as the stages do; without it CUDA plans attention anew for each shape
    name = torch.cuda.get_device_name() if common.DEVICE == "cuda" else "CPU"
    print(common.machine(), f"; device {name}", sep="", flush=True)
    results: dict[str, Row] = {}
    with common.data(chosen) as folder:
        names = common.titles(folder)
        for label in chosen.shape or list(SHAPES):
            model = build(SHAPES[label], names, common.settings().model)
            for title, row in itertools.chain(inference(model, folder), training(model, folder, chosen.seconds)):
                results[f"{label}, {title}"] = row
                figures = ", ".join(f"{key} {value:,.1f}" for key, value in row.items())
                print(f"{label:<6}{title:<24}{figures}", flush=True)
            del model
    common.write(chosen.json, results)


if __name__ == "__main__":
    main()
