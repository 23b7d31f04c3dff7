"""The backbone for ONNX Runtime (`llmsrec.serving.on_onnx`), if it gives the vectors that torch gives.

The graph is the engine's own decoder, which computes what is read out alone, behind any keys and values. Its weights
stay where they are, in the backbone's safetensors: the graph names them.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from llmsrec.data.sequences import Sequences
from llmsrec.engine.backbone import load_tokenizer
from llmsrec.engine.decoder import Decoder, mask_after
from llmsrec.evaluation.overlap import without_history
from llmsrec.export.onnx import quiet, save
from llmsrec.files import write_json
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.progress import Progress
from llmsrec.serving.llm_tower import Vectors
from llmsrec.serving.on_onnx import ABOUT, GRAPH, TOKENIZER, OnOnnx, as_float32, distance, model_files, stored

PROMPTS = 64  # of users, and of items, that are compared
PIECE = 16  # of them at once
LEAST = 0.99  # of the ten best items of torch, that ONNX Runtime has to find
INPUTS, OUTPUTS = ["inputs", "read", "positions", "present", "past"], ["hidden", "new"]


class Behind(nn.Module):
    """A decoder behind keys and values, as a module of tensors alone."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.model, self._decoder = decoder.model, decoder

    def forward(
        self, inputs: Tensor, read: Tensor, positions: Tensor, present: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states `[B, d_llm]` at `read`, and keys and values `[2 * layers, B, heads, L, d_head]` of `inputs`.

        Args:
            inputs: `[B, L, d_llm]`.
            read: `[B, 1]`.
            positions: `[B, L]`.
            present: `[B, P]` which of `past` are no padding.
            past: `[2 * layers, B, heads, P, d_head]`.
        """
        mask, new = mask_after(present, inputs.shape[1], inputs.dtype), list[Tensor]()
        parts = [past[number] for number in range(past.shape[0])]
        hidden = self._decoder(inputs, read, mask, positions, parts, kept=new)
        return hidden[:, 0], torch.stack(new)


class Unfit(Exception):
    """Why a backbone is left to torch."""


def write(
    folder: Path, model: LLMSRec, item_vectors: np.ndarray, sequences: Sequences, tolerance: float
) -> dict[str, Any]:
    """Write layers/ into a bundle that has its backbone/ and onnx/, or leave it out and print why.

    Args:
        item_vectors: `[I + 1, d']`.
        sequences: histories to compare on.
        tolerance: largest difference of h_u and h_i from torch's, relative to a vector's length.

    Returns:
        What was measured: `runtime`, which is `onnx` or `torch`; unless there is a `reason` against all measuring,
        `overlap_10`, the share of torch's ten best items of users' and items' vectors that ONNX Runtime has, too,
        `largest_difference`, how many `prompts` of each kind tell so, and the `least` overlap that is let in.
    """
    place = folder / "layers"
    place.mkdir()
    measured: dict[str, Any] = {}
    try:
        names = export(_frozen(model), place / GRAPH)
        _write_about(folder, model, names)
        measured = parity(OnOnnx(folder), model, item_vectors, sequences)
        if not (measured["overlap_10"] >= LEAST and measured["largest_difference"] <= tolerance):
            raise Unfit(f"vectors differ by {measured['largest_difference']}, overlap@10 is {measured['overlap_10']}")
    except Unfit as reason:
        shutil.rmtree(place)
        print(f"the language model is served by torch, not by ONNX Runtime: {reason}", flush=True)
        return {"runtime": "torch", "reason": str(reason)} | measured
    return {"runtime": "onnx"} | measured


def export(model: nn.Module, path: Path) -> dict[str, str]:
    """Write the graph of a float32 base model with Llama's layers on the CPU, without its weights.

    Returns:
        The graph's name of each of these -> the model's.
    """
    config: Any = model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    decoder, parts = Decoder(model), 2 * config.num_hidden_layers
    batch, length, before = (torch.export.Dim(name) for name in ("batch", "length", "before"))
    width = decoder.layers[0].self_attn.head_dim
    example = (
        torch.zeros(2, 5, config.hidden_size), torch.zeros(2, 1, dtype=torch.int64), 3 + torch.arange(5).repeat(2, 1),
        torch.ones(2, 3, dtype=torch.bool), torch.zeros(parts, 2, heads, 3, width),
    )  # fmt: skip
    shapes = ({0: batch, 1: length}, {0: batch}, {0: batch, 1: length}, {0: batch, 1: before}, {1: batch, 3: before})
    with quiet():
        # Not optimised here: that would fold small weights into others, and ONNX Runtime optimises what it loads.
        program = torch.onnx.export(
            Behind(decoder).eval(), example, dynamo=True, dynamic_shapes=shapes, input_names=INPUTS,
            output_names=OUTPUTS, verbose=False, optimize=False,
        )  # fmt: skip
    assert program is not None  # only the exporter that was there before dynamo returns None
    held = {f"model.{name}": name for name, _ in model.named_parameters()}
    initializers = program.model.graph.initializers
    names = {name: held[name] for name in initializers if name in held}
    for name in names:
        weight: Any = initializers[name].const_value
        elsewhere = ir.ExternalTensor("backbone", 0, weight.nbytes, weight.dtype, shape=weight.shape, name=name)
        initializers[name].const_value = elsewhere
    save(ir.serde.serialize_model(program.model), path)
    return names


@torch.no_grad()
def parity(on_onnx: OnOnnx, model: LLMSRec, item_vectors: np.ndarray, sequences: Sequences) -> dict[str, Any]:
    """What `write` says of users spread over all, and of items."""
    users, items = (_spread(count) for count in (sequences.users, len(item_vectors) - 1))
    inputs = _array(model.item_inputs(torch.arange(len(item_vectors), device=model.device)))
    vectors = Vectors(inputs, _array(model.user_out), _array(model.item_out))
    on_onnx.prepare(model.prompts, vectors)
    seen = None
    if model.f_U is not None:
        seen = _array(model.f_U(model.teacher.user_vectors(sequences)[users].to(model.device)))

    def of_users(rows: np.ndarray) -> np.ndarray:
        histories = model.prompts.users(*zip(*(sequences.of(user) for user in users[rows].tolist()), strict=True))
        return on_onnx.read_out(histories, inputs, vectors.user_out, None if seen is None else seen[rows])

    def of_items(rows: np.ndarray) -> np.ndarray:
        return on_onnx.read_out(model.prompts.items(items[rows]), inputs, vectors.item_out)

    pairs = (
        (_array(model.hidden_histories(sequences, users)), _in_pieces(len(users), of_users), model.f_user),
        (
            _array(model.hidden_items(torch.from_numpy(items).to(model.device))),
            _in_pieces(len(items), of_items),
            model.f_item,
        ),
    )
    shares, apart = [], []
    for theirs, ours, head in pairs:
        own, other = (_array(head(torch.from_numpy(hidden).to(model.device))) for hidden in (ours, theirs))
        shares.append(without_history(own, other, item_vectors))
        apart.append(distance(ours, theirs))
    return {
        "prompts": min(len(users), len(items)),
        "least": LEAST,
        "overlap_10": round(float(np.concatenate(shares).mean()), 4),
        "largest_difference": float(f"{max(apart):.1e}"),
    }


def _in_pieces(count: int, read_out: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What ONNX Runtime reads out of `count` prompts, as many at a time as a large model has memory for."""
    hidden = []
    with Progress(count, unit="prompts", label="ONNX Runtime") as progress:
        for rows in np.split(np.arange(count), range(PIECE, count, PIECE)):
            hidden.append(read_out(rows))
            progress.add(len(rows))
    return np.concatenate(hidden)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _spread(count: int) -> np.ndarray:
    """Some of the numbers 1..`count`, evenly over all."""
    return np.unique(np.linspace(1, count, min(count, PROMPTS)).round().astype(np.int64))


def _frozen(model: LLMSRec) -> nn.Module:
    """The backbone in float32 on the CPU.

    Raises:
        Unfit: it is not run by the engine's decoder, or not by its stored weights alone.
    """
    if model.decoder is None:
        raise Unfit("its layers are not Llama's")
    if not model.decoder.frozen:
        raise Unfit("it has adapters")
    if getattr(model.backbone.config, "quantization_config", None) is not None:
        raise Unfit("its weights are quantized")
    weight: Any = model.backbone.get_input_embeddings().weight  # type: ignore[operator]
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return model.backbone
    return deepcopy(model.backbone).to("cpu", torch.float32)


def _write_about(folder: Path, model: LLMSRec, names: dict[str, str]) -> None:
    """Write layers.json and tokenizer.json: what else `OnOnnx` needs to know.

    Raises:
        Unfit: the files hold other weights or names than torch runs, or there is no fast tokenizer.
    """
    held = dict(stored(model_files(folder / "backbone")))
    prefix = f"{model.backbone.base_model_prefix}."  # of a whole language model's file
    values = dict(model.backbone.named_parameters())
    embedding = next(name for name, value in values.items() if value is model.backbone.get_input_embeddings().weight)  # type: ignore[operator]

    def stored_name(name: str) -> str:
        for known in (name, prefix + name):
            if known in held:
                value = torch.tensor(as_float32(held[known])).to(values[name])
                if torch.equal(value, values[name]):
                    return known
        raise Unfit(f"its files hold {name} otherwise than it is run with")

    weights = {name: stored_name(own) for name, own in names.items()}
    tokenizer = load_tokenizer(folder / "backbone")
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise Unfit("its tokenizer is not a fast one")
    fast.no_padding()
    fast.no_truncation()
    fast.save(str(folder / "layers" / TOKENIZER), pretty=False)
    about = {"limit": model.prompts.max_tokens, "embedding": stored_name(embedding), "weights": weights}
    write_json(folder / "layers" / ABOUT, about)
