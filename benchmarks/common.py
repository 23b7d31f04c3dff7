"""What the benchmarks share: data, models, timing in turn, tables and JSON."""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llmsrec import params, presets
from llmsrec.data import five_core, raw, split
from llmsrec.data.sequences import Sequences
from llmsrec.engine import embedded
from llmsrec.files import read_json, write_json
from llmsrec.models.cf.teacher import Teacher
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.training.batches import Samples
from llmsrec.training.next_item import build
from llmsrec.training.retrieval import step_losses

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Figures = dict[str, list[float]]  # a name -> its value in each repetition


@dataclass(frozen=True)
class Shape:
    """An embedded-shaped Llama: width, layers, heads."""

    width: int
    layers: int
    heads: int

    def __str__(self) -> str:
        return f"{self.layers}-layer, {self.width}-wide Llama"


SMALL = Shape(128, 3, 4)  # backbone.embedded as committed
WIDE = Shape(384, 6, 6)


def arguments(doc: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark on data takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with filtered/ and split/, as the pipeline writes it")
    parser.add_argument("--files", type=Path, default=ROOT / "data/beauty", help="else: the folder of raw files")
    parser.add_argument("--category", default="Beauty", help="which of them")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


@contextmanager
def data(chosen: argparse.Namespace) -> Iterator[Path]:
    """The folder `--data`, or one made from `--files` by the pipeline's own stages."""
    if chosen.data:
        yield chosen.data
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw.ingest(*raw.find(chosen.files, chosen.category), folder / "raw", {})
        five_core.filter_reviews(folder / "raw", folder / "filtered", 5, 1.0, 2023)
        split.split_interactions(folder / "filtered", folder / "split", 99, False, 99)
        yield folder


def titles(folder: Path) -> list[str]:
    return pl.read_parquet(folder / "filtered/items.parquet")["title"].to_list()


def interactions(folder: Path) -> Sequences:
    return Sequences.read(folder / "filtered/interactions.parquet")


def settings() -> params.Params:
    """params.yaml as committed."""
    return params.load(ROOT / "params.yaml")


def strong() -> params.SASRec:
    """The preset `teacher/strong`, over the committed values."""
    values = {key.removeprefix("sasrec."): value for key, value in presets.PRESETS["teacher/strong"].items()}
    return params.SASRec.model_validate(settings().sasrec.model_dump() | values)


def teacher(items: int, seed: int = 0) -> Teacher:
    """A SASRec with random weights and the committed shape."""
    return build(items, settings().sasrec.model_copy(update={"seed": seed}))


def language_model(names: list[str], shape: Shape) -> tuple[LlamaForCausalLM, Any]:
    """A causal-LM with random weights, frozen, and the embedded backbone's tokenizer, trained on the titles."""
    vocabulary = settings().backbone.embedded.vocab_size
    tokenizer = embedded.train_tokenizer(names, vocabulary, np.random.default_rng(0))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=2 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=embedded.LONGEST_PROMPT,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).requires_grad_(False).eval(), tokenizer


def loaded(folder: Path, dtype: torch.dtype) -> tuple[LlamaForCausalLM, Any]:
    """The causal-LM in a model folder, frozen, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.requires_grad_(False).eval(), AutoTokenizer.from_pretrained(folder)


def run_steps(
    model: LLMSRec,
    samples: Samples,
    draws: Iterable[tuple[Any, ...]],
    of: params.Model,
    table: torch.Tensor | None = None,
) -> None:
    """Losses and gradients of the steps that `training.loop.schedule` draws; nothing is learnt."""
    model.train()
    for _, rows, rng, _ in draws:
        model.zero_grad(set_to_none=True)
        torch.stack(list(step_losses(model, samples, rows, of, rng, table).values())).sum().backward()


def workspace(folder: Path, values: dict[str, Any]) -> Path:
    """A folder in which stages can run, with these values of params.yaml."""
    if folder.exists():
        return folder
    building = folder.with_name(f".{folder.name}")
    shutil.rmtree(building, ignore_errors=True)
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, building / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, building)
    yaml = YAML()
    params = yaml.load(building / "params.yaml")
    for key, value in values.items():
        section, name = key.split(".")
        params[section][name] = value
    yaml.dump(params, building / "params.yaml")
    building.rename(folder)
    return folder


def stages(folder: Path, names: tuple[str, ...]) -> None:
    """Run those that have not run there, and note the processor time of each (`seconds.json`).

    They share a registry with those of the folders beside `folder`.
    """
    path = folder / "seconds.json"
    seconds = read_json(path) if path.exists() else {}
    environment = {**os.environ, "DVC_ROOT": str(folder), "OMP_NUM_THREADS": "1"}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder.parent}/mlflow.db"}
    for name in names:
        if name in seconds:
            continue
        print(f"{folder.name}: {name}", flush=True)
        before = spent()
        module = f"stages.{'sources.' if name == 'files' else ''}{name}"
        subprocess.run([sys.executable, "-m", module], cwd=folder, env=environment, check=True)
        seconds[name] = spent() - before
        write_json(path, seconds)


def spent() -> float:
    """Seconds of processor time that ended child processes took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def in_turn(sides: dict[str, Callable[[], float]], repeats: int = REPEATS) -> Figures:
    """Each side's rates, one a repetition, after a first one to warm up; the sides take turns."""
    figures: Figures = {name: [] for name in sides}
    for repetition in range(repeats + 1):
        for name, rate in sides.items():
            value = rate()
            if repetition:
                figures[name].append(value)
    return figures


def ratios(figures: Figures, ours: str, other: str) -> list[float]:
    """The ratio in each repetition, of two timings that follow each other."""
    return [a / b for a, b in zip(figures[ours], figures[other], strict=True)]


def show(figures: Figures) -> None:
    """A line for each figure: median, least and greatest."""
    width = max(44, *(len(name) + 2 for name in figures))
    print(f"{'':<{width}}{'median':>12}{'min':>12}{'max':>12}")
    for name, values in figures.items():
        print(f"{name:<{width}}{statistics.median(values):>12,.2f}{min(values):>12,.2f}{max(values):>12,.2f}")


def write(path: Path | None, figures: Any) -> None:
    """The figures and the machine as JSON, if a path is given."""
    if path:
        path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n", encoding="utf-8")


def timed(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a call takes, until the device is done; of processor time with `time.process_time`."""
    wait()
    start = clock()
    call()
    wait()
    return clock() - start


def wait() -> None:
    """For what the device has been given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def matrix_rate(
    size: int = 2048, dtype: torch.dtype = torch.float32, clock: Callable[[], float] = time.perf_counter
) -> float:
    """GFlop/s of a large product."""
    left, right = torch.randn(2, size, size).to(dtype)
    return 2 * size**3 / timed(lambda: left @ right, clock) / 1e9


def peak() -> float:
    """This process's largest resident size so far, in MB; Linux lets a child inherit `ru_maxrss`, so not that there."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def machine() -> str:
    """Processor, cores, threads, load and torch's version."""
    cores, threads, load = os.cpu_count(), torch.get_num_threads(), os.getloadavg()[0]
    name = platform.processor() or platform.machine()
    return f"{name}, {cores} cores, {threads} threads, load {load:.1f}, torch {torch.__version__}"
