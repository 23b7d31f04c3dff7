"""A bundle's language model on ONNX Runtime beside torch: the same answers or not, and how fast; with int8, too.

    python -m benchmarks.onnx_backbone --bundle models/bundle --data data

Real histories go through the tower `llm` as the service runs it (`serving.on_torch`, `serving.on_onnx`), with nothing
kept; each batch is timed in turn, on one thread. `overlap@10` is the share of the ten best items, by f_user and the
item vectors, that torch has, too. Of the products with weights, `int8` is ONNX Runtime's dynamic quantization, with one
scale for a matrix and one for its inputs, and `int8 blocks` has a scale for every 32 weights of a column.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks import common
from llmsrec.data.sequences import Sequences
from llmsrec.evaluation.overlap import without_history
from llmsrec.files import read_json, write_json
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.llm_tower import LanguageModel, LLMTower
from llmsrec.serving.on_onnx import ABOUT, GRAPH, OnOnnx, as_float32, model_files, stored
from llmsrec.serving.on_torch import OnTorch
from llmsrec.serving.towers import History

BATCHES = (1, 8, 32)
INT8_INPUTS = 4  # ONNX Runtime's `accuracy_level` for products of int8 with int8


def dynamic(plain: Path, path: Path) -> None:
    quantize_dynamic(plain, path, weight_type=QuantType.QInt8)


def in_blocks(plain: Path, path: Path) -> None:
    made = MatMulNBitsQuantizer(str(plain), bits=8, block_size=32, is_symmetric=True, accuracy_level=INT8_INPUTS)
    made.process()
    onnx.save(made.model.model, path)


HOW = {"onnx int8": dynamic, "onnx int8 blocks": in_blocks}


def quantized(bundle: Path, place: Path) -> Iterator[OnOnnx]:
    """The bundle's language model with the weights of its products in int8, as each of `HOW` makes it below `place`."""
    about, weights = read_json(bundle / "layers" / ABOUT), dict(stored(model_files(bundle / "backbone")))
    graph, plain = onnx.load(bundle / "layers" / GRAPH, load_external_data=False), place / "plain.onnx"
    for tensor in graph.graph.initializer:
        if tensor.name in about["weights"]:
            values = as_float32(weights[about["weights"][tensor.name]])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    quant_pre_process(graph, plain, skip_symbolic_shape=True)  # else weights are turned while it runs, and stay float
    for name, quantize in HOW.items():
        folder = place / name
        shutil.copytree(bundle / "layers", folder / "layers")
        (folder / "backbone").symlink_to((bundle / "backbone").resolve())
        quantize(plain, folder / "layers" / GRAPH)
        write_json(folder / "layers" / ABOUT, about | {"weights": {}})
        yield OnOnnx(folder)


def rate(tower: LLMTower, histories: list[History]) -> float:
    """Users a second."""
    return len(histories) / common.timed(partial(tower.vectors, histories))


def overlap(ours: np.ndarray, theirs: np.ndarray, items: np.ndarray) -> float:
    """Share of the ten best items that both have, by user vectors `[n, d']` and item vectors `[I + 1, d']`."""
    return float(without_history(ours, theirs, items).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--users", type=int, default=256, help="whose ten best are compared")
    parser.add_argument("--repeats", type=int, default=common.REPEATS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # as `OnOnnx` reads it
    bundle = Bundle.open(asked.bundle)
    events = Sequences.read(asked.data / "filtered/interactions.parquet").drop_last(1)
    chosen = np.unique(np.linspace(1, events.users, asked.users).astype(int)).tolist()
    histories = [History(*events.of(user), []) for user in chosen]
    with tempfile.TemporaryDirectory() as folder:
        languages: dict[str, LanguageModel] = {"torch": OnTorch(bundle), "onnx": OnOnnx(bundle.folder)}
        languages |= zip(HOW, quantized(bundle.folder, Path(folder)), strict=True)
        sides = {name: LLMTower(bundle, language) for name, language in languages.items()}
        groups = [histories[start : start + max(BATCHES)] for start in range(0, len(histories), max(BATCHES))]
        items = bundle.tensors["item_vectors"]
        users = {name: np.concatenate([tower.vectors(group) for group in groups]) for name, tower in sides.items()}
        for name, of in users.items():
            apart = np.abs(of @ items.T - users["torch"] @ items.T).max()
            same = overlap(of, users["torch"], items)
            print(f"{name:<16} overlap@10 {same:.4f}, scores differ by at most {apart:.1e}")
        for size in BATCHES:
            rates = common.in_turn(
                {name: partial(rate, tower, histories[:size]) for name, tower in sides.items()}, asked.repeats
            )
            shown = ", ".join(f"{name} {np.median(values):.1f}" for name, values in rates.items())
            best = {name: np.median(common.ratios(rates, name, "torch")) for name in sides if name != "torch"}
            print(f"batch {size}: users a second: {shown}; " + ", ".join(f"{n} {r:.2f}x" for n, r in best.items()))


if __name__ == "__main__":
    main()
