"""A bundle's language model on ONNX Runtime beside torch: the same answers or not, and how fast; with int8, too.

    python -m benchmarks.onnx_backbone --bundle models/bundle --data data

The layers of a Llama are exported for any batch and length; keys and values of what all prompts begin with are inputs,
as the engine keeps them. Prompts are real histories, embedded once for all sides; each batch is timed in turn, on one
thread, from embedded tokens to h_u. `overlap@10` is the share of the ten best items, by f_user and the item vectors,
that torch has, too. int8 is ONNX Runtime's dynamic quantization of the products with weights.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from benchmarks import common
from llmsrec.data.sequences import Sequences
from llmsrec.engine import backbone as backbones
from llmsrec.engine.backbone import Backbone
from llmsrec.engine.decoder import Decoder
from llmsrec.engine.readout import embed, keys_and_values
from llmsrec.evaluation.overlap import without_history
from llmsrec.prompts.retrieval import Prompts, PromptSettings
from llmsrec.serving.bundle import Bundle

BATCHES = (1, 8, 32)
Inputs = tuple[Tensor, Tensor, Tensor, list[Tensor]]  # what `Layers` takes
Side = Callable[[Inputs], np.ndarray]


class Layers(nn.Module):
    """A decoder's forward pass with one read-out a prompt, as a module of tensors alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self._decoder = model, Decoder(model)

    def forward(self, inputs: Tensor, read: Tensor, positions: Tensor, past: list[Tensor]) -> Tensor:
        """`[B, d_llm]` at `read` `[B, 1]`, counted from the head's end.

        Args:
            inputs: `[B, L, d_llm]`.
            positions: `[1, L]`.
            past: `[1, heads, P, d_head]` the head's keys and values, of each layer in turn.
        """
        expanded = [part.expand(inputs.shape[0], -1, -1, -1) for part in past]
        return self._decoder(inputs, read, None, positions, expanded)[:, 0]


class Prepared:
    """Makes of histories what the layers take."""

    def __init__(self, bundle: Bundle, backbone: Backbone) -> None:
        settings = PromptSettings(**bundle.config["prompts"])
        titles = bundle.items["title"].to_list()
        self.prompts = Prompts(backbone.tokenizer, titles, settings=settings, limit=backbone.limit)
        self.model = backbone.model
        self.items = torch.from_numpy(bundle.models["f_I"](bundle.tensors["item_embeddings"]))
        self.out = torch.from_numpy(bundle.tensors["user_out"])

    @torch.no_grad()
    def of(self, items: list[np.ndarray], times: list[np.ndarray]) -> Inputs:
        batch = self.prompts.users(items, times)
        size = batch.constant
        inputs, _ = embed(self.model, batch, self.items.__getitem__, self.out, None)
        read = torch.from_numpy(batch.lengths)[:, None] - 1 - size
        positions = torch.arange(size, inputs.shape[1])[None]
        head = keys_and_values(self.model, torch.from_numpy(batch.token_ids[:1, :size]))
        return inputs[:, size:].contiguous(), read, positions, head


def export(model: nn.Module, example: Inputs, path: Path) -> None:
    """Write the layers to `path`, for any batch, length and head; the weights lie beside it."""
    batch, length, head = (torch.export.Dim(name) for name in ("batch", "length", "head"))
    shapes = ({0: batch, 1: length}, {0: batch}, {1: length}, [{2: head}] * len(example[3]))
    program = torch.onnx.export(Layers(model), example, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(str(path), external_data=True)


def on_onnx(path: Path) -> Side:
    """Runs the file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Inputs) -> np.ndarray:
        *first, past = inputs
        tensors = [tensor.numpy() for tensor in (*first, *past)]
        return session.run(None, dict(zip(names, tensors, strict=True)))[0]  # type: ignore[return-value]

    return run


def on_torch(model: nn.Module) -> Side:
    layers = Layers(model)

    def run(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            return layers(*inputs).numpy()

    return run


def rate(run: Side, batch: Inputs) -> float:
    """Users a second."""
    return len(batch[0]) / common.timed(partial(run, batch))


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
    bundle = Bundle.open(asked.bundle)
    backbone = backbones.load(bundle.folder / "backbone")
    prepared = Prepared(bundle, backbone)
    events = Sequences.read(asked.data / "filtered/interactions.parquet").drop_last(1)
    chosen = np.unique(np.linspace(1, events.users, asked.users).astype(int)).tolist()
    histories = [events.of(user) for user in chosen]
    groups = [histories[start : start + max(BATCHES)] for start in range(0, len(histories), max(BATCHES))]
    batches = [prepared.of([h[0] for h in group], [h[1] for h in group]) for group in groups]
    with tempfile.TemporaryDirectory() as place:
        plain, small = Path(place) / "model.onnx", Path(place) / "int8.onnx"
        started = time.monotonic()
        export(backbone.model, prepared.of([histories[0][0]] * 2, [histories[0][1]] * 2), plain)
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8)
        print(f"exported and quantized in {time.monotonic() - started:.0f} s")
        sides = {"torch": on_torch(backbone.model), "onnx": on_onnx(plain), "onnx int8": on_onnx(small)}
        f_user, items = bundle.models["f_user"], bundle.tensors["item_vectors"]
        users = {name: f_user(np.concatenate([run(batch) for batch in batches])) for name, run in sides.items()}
        for name, of in users.items():
            apart = np.abs(of @ items.T - users["torch"] @ items.T).max()
            same = overlap(of, users["torch"], items)
            print(f"{name:<10} overlap@10 {same:.4f}, scores differ by at most {apart:.1e}")
        for size in BATCHES:
            batch = prepared.of([h[0] for h in histories[:size]], [h[1] for h in histories[:size]])
            rates = common.in_turn({name: partial(rate, run, batch) for name, run in sides.items()}, asked.repeats)
            told = ", ".join(f"{name} {np.median(values):.1f}" for name, values in rates.items())
            best = {name: np.median(common.ratios(rates, name, "torch")) for name in sides if name != "torch"}
            print(f"batch {size}: users a second: {told}; " + ", ".join(f"{n} {r:.2f}x" for n, r in best.items()))


if __name__ == "__main__":
    main()
