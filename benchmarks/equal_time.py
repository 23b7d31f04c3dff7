"""What `train.targets`, `model.negatives` and `train.start: heads` do to quality, given the same time to train.

    python -m benchmarks.equal_time . --seconds 120      # a repository in which `dvc repro llm_srec` is done

Each variant trains as the stage llm_srec does, for as many epochs as fit the given processor time (its steps are timed
first) and with `--checks` checks, so that the learning rate falls alike. Its best check is then evaluated on the valid
items of all users; test is not looked at. Checks are not part of the time; what `train.start: heads` does first is.
"""

import argparse
import itertools
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import common
from llmsrec import params as parameters
from llmsrec.data import held_out
from llmsrec.data.sequences import Sequences
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.params import Params
from llmsrec.training.loop import schedule
from llmsrec.training.retrieval import Validation, train, training_samples
from llmsrec.training.schedules import train_heads
from llmsrec.tuning.trials import CANDIDATES, INTERACTIONS, TRAIN, untrained

VARIANTS = (  # train.targets, model.negatives, train.start
    ("last", "own", "scratch"),
    ("last", "shared", "scratch"),
    ("all", "own", "scratch"),
    ("all", "shared", "scratch"),
    ("all", "in_batch", "scratch"),
    ("all", "all", "scratch"),
    ("all", "shared", "heads"),
    ("all", "all", "heads"),
)
TIMED = 20  # steps


def main() -> None:
    options = arguments()
    report = options.json and options.json.resolve()
    os.chdir(options.repository)
    print(common.machine(), flush=True)
    params = parameters.load(Path("params.yaml"))
    sequences = Sequences.read(TRAIN)
    results: dict[str, common.Figures] = {}
    for seed, (name, chosen) in itertools.product(options.seeds, variants().items()):
        if not any(re.fullmatch(pattern, name) for pattern in options.variants):
            continue
        print(f"\n{name}, seed {seed}", flush=True)
        for metric, value in measure(
            variant(params, *chosen, seed), sequences, options.seconds, options.checks
        ).items():
            results.setdefault(name, {}).setdefault(metric, []).append(value)
    print(table(results))
    common.write(report, results)


def variants() -> dict[str, tuple[str, str, str]]:
    """Each variant under its name, such as `all, shared` or `all, shared, heads`."""
    return {", ".join(part for part in variant if part != "scratch"): variant for variant in VARIANTS}


def variant(params: Params, targets: str, negatives: str, start: str, seed: int) -> Params:
    model = params.model.model_copy(update={"negatives": negatives})
    train = params.train.model_copy(update={"targets": targets, "start": start, "seed": seed})
    return params.model_copy(update={"model": model, "train": train})


def measure(params: Params, sequences: Sequences, seconds: float, checks: int) -> dict[str, float]:
    """Epochs that fit the time, targets and steps of them, and the best check's scores on all users' valid items."""
    model, validation = untrained(params), validation_of(params, params.evaluate.validation_users)
    model.item_vectors()  # the first time fills the cache
    before = 0.0
    if params.train.start == "heads":
        with tempfile.TemporaryDirectory() as resume:
            began = time.process_time()
            train_heads(model, sequences, validation, params.model, params.train, Path(resume))
            before = time.process_time() - began
    epoch_seconds = time_epoch(untrained(params), sequences, params)
    epochs = max(1, round((seconds - before) / epoch_seconds))
    update = {"epochs": epochs, "evaluations_per_epoch": max(1, round(checks / epochs)), "patience": checks}
    settings, warm = params.train.model_copy(update=update), params.train.start == "heads"
    with tempfile.TemporaryDirectory() as resume:
        curve = train(model, sequences, validation, params.model, settings, Path(resume), warm=warm, check_first=warm)
    samples, _ = training_samples(model, sequences, settings)
    scores = validation_of(params, validation.histories.users).scores(model)
    return {
        "epochs": epochs,
        "s an epoch": epoch_seconds,
        "s in all": before + epochs * epoch_seconds,
        "targets": epochs * len(samples.targets(np.arange(len(samples.users)))[0]),
        "steps": curve[-1]["step"],
        "valid/uni99/ndcg_10": scores["valid/uni99/ndcg_10"],
        "valid/full/ndcg_10": scores["valid/full/ndcg_10"],
    }


def validation_of(params: Params, users: int) -> Validation:
    valid = held_out.read(Sequences.read(INTERACTIONS), TRAIN.parent, "valid", params.split.by)
    return Validation.of(valid, CANDIDATES, users, params.train.seed, params.data.repeats)


def time_epoch(model: LLMSRec, sequences: Sequences, params: Params) -> float:
    """Processor seconds of an epoch's steps, from some of them."""
    model.item_vectors()
    samples, lengths = training_samples(model, sequences, params.train)
    table = model.hidden_catalogue() if params.model.negatives == "all" else None
    began = time.process_time()
    common.run_steps(model, samples, itertools.islice(schedule(lengths, params.train), TIMED), params.model, table)
    return (time.process_time() - began) / TIMED * len(lengths) / params.train.batch_size


def table(results: dict[str, common.Figures]) -> str:
    """Markdown: a row for each variant, the mean over the seeds, and the range of what the seeds change."""
    metrics = list(next(iter(results.values())))
    lines = ["", f"| targets, negatives, start | {' | '.join(metrics)} |", "|" + "---|" * (len(metrics) + 1)]
    for name, values in results.items():
        cells = [cell(metric, values[metric]) for metric in metrics]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(metric: str, values: list[float]) -> str:
    if not metric.startswith("valid/"):
        return f"{np.mean(values):,.1f}" if metric.startswith("s ") else f"{np.mean(values):,.0f}"
    spread = f" ({min(values):.4f}-{max(values):.4f})" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="folder with params.yaml, data/ and models/")
    parser.add_argument("--seconds", type=float, default=120, help="of processor time for the steps of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="values of train.seed")
    parser.add_argument("--checks", type=int, default=40, help="of each training; the learning rate falls at each")
    parser.add_argument("--variants", nargs="+", default=[".*"], help="regular expressions, such as 'all, .*'")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
