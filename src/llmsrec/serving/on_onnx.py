"""A bundle's language model on ONNX Runtime: Llama's layers for any batch and length, without torch or transformers.

`layers/decoder.onnx` holds the graph alone, as `export.layers` writes it; its weights are read from the backbone's own
safetensors, mapped into memory, so that a bundle holds them once.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from llmsrec.engine.backbone_files import Files, fetch, read_files
from llmsrec.engine.kept import UNLIMITED, Kept
from llmsrec.errors import DataError
from llmsrec.files import read_json
from llmsrec.prompts.retrieval import DAY_MS, OUT, USER_REPRESENTATION, PromptBatch, Prompts
from llmsrec.serving.llm_tower import Vectors

GRAPH, TOKENIZER, ABOUT = "decoder.onnx", "tokenizer.json", "layers.json"
TOLERANCE = 1e-5  # of two right passes, relative to a vector's length; as `engine.yardstick` has it for float32
TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class PlainTokenizer:
    """What `Prompts` asks of transformers' tokenizers, from a tokenizer.json alone."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self.added_tokens_decoder = self._tokenizer.get_added_tokens_decoder()

    def __call__(self, texts: str | list[str], add_special_tokens: bool, **_: Any) -> dict[str, Any]:
        """`input_ids` of a text, or of each of several."""
        if isinstance(texts, str):
            return {"input_ids": self._tokenizer.encode(texts, add_special_tokens=add_special_tokens).ids}
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        return {"input_ids": [text.ids for text in encoded]}


class OnOnnx:
    """See `llm_tower.LanguageModel`, and `engine.kept.Layers`.

    Args:
        folder: of a bundle, or of what will be one.

    Raises:
        DataError: a file cannot be read, or the backbone's weights cannot be had.
    """

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / "layers" / ABOUT)
        self.limit: int | None = about["limit"]
        weights = dict(stored(model_files(folder / "backbone")))
        self._words = weights[about["embedding"]]
        options = ort.SessionOptions()
        # As torch chooses it; threads that wait for work leave the processor to the service's other processes.
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        named = {name: as_float32(weights[own]) for name, own in about["weights"].items()}
        given = {name: ort.OrtValue.ortvalue_from_numpy(values) for name, values in named.items()}
        options.add_external_initializers([*given], [*given.values()])
        try:
            self.tokenizer = PlainTokenizer(folder / "layers" / TOKENIZER)
            self._session = ort.InferenceSession(
                str(folder / "layers" / GRAPH), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # neither library has a class for its errors
            reason = str(error).splitlines()[0][:200]
            raise DataError(
                f"{folder / 'layers'} cannot be read: {reason}. Export the model again (`dvc repro export`)."
            ) from error
        *_, past = self._session.get_inputs()
        self._parts, _, self._heads, _, self._width = past.shape  # 2 * layers, heads, d_head
        self._heads_of: dict[bytes, np.ndarray] = {}

    def prepare(self, prompts: Prompts, vectors: Vectors) -> None:
        """Nothing is measured: that was done when the bundle was made (`export.layers`)."""
        self._prompts, self._vectors = prompts, vectors

    def read_out(
        self, prompts: PromptBatch, item_inputs: np.ndarray, out: np.ndarray, user_inputs: np.ndarray | None = None
    ) -> np.ndarray:
        """See `llm_tower.LanguageModel`."""
        size = prompts.constant
        begun = self.head(prompts) if size else self._nothing()
        inputs = self._embed(prompts, item_inputs, out, user_inputs)[:, size:]
        return self._run(inputs, prompts.slots[:, size:], [begun] * len(inputs))[0]

    def texts(self, titles: list[str]) -> None:
        """See `llm_tower.LanguageModel`: the graph reads out single positions."""

    def kept(self, limit: int) -> Kept | None:
        """See `llm_tower.LanguageModel`."""
        count, tried = len(self._vectors.item_inputs) - 1, Kept(self, UNLIMITED)
        items = np.arange(self._prompts.history) % count + 1
        sizes = sorted({1, (len(items) + 1) // 2, len(items)})
        prompts = [self._prompts.users([items[:size]], [DAY_MS * np.arange(size)]) for size in sizes]
        behind = np.concatenate([tried.read_out(prompt) for prompt in prompts])
        vectors = self._vectors
        plain = np.concatenate([self.read_out(prompt, vectors.item_inputs, vectors.user_out) for prompt in prompts])
        apart = distance(behind, plain)
        if not apart <= TOLERANCE:
            print(f"users' prompts are not kept: with them, vectors are {apart:.0e} apart", flush=True)
            return None
        return Kept(self, limit)

    def head(self, prompts: PromptBatch) -> np.ndarray:
        """See `engine.kept.Layers`."""
        tokens = prompts.token_ids[:1, : prompts.constant]
        name = tokens.tobytes()
        if name not in self._heads_of:
            _, new = self._run(self._words[tokens], np.zeros_like(tokens), [self._nothing()])
            self._heads_of[name] = new[:, 0]
        return self._heads_of[name]

    def joined(self, parts: list[np.ndarray]) -> np.ndarray:
        """See `engine.kept.Layers`."""
        return np.concatenate(parts, axis=2)

    def follow(self, prompts: PromptBatch, pasts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """See `engine.kept.Layers`."""
        inputs = self._embed(prompts, self._vectors.item_inputs, self._vectors.user_out, None)
        return self._run(inputs, prompts.slots, pasts)

    def _embed(
        self, prompts: PromptBatch, item_inputs: np.ndarray, out: np.ndarray, user_inputs: np.ndarray | None
    ) -> np.ndarray:
        """As `engine.readout.embed`: `[B, L, d_llm]` float32."""
        inputs, slots = as_float32(self._words[prompts.token_ids]), prompts.slots
        inputs[slots > 0] = item_inputs[slots[slots > 0]]
        inputs[slots == OUT] = out
        if user_inputs is not None:
            inputs[slots == USER_REPRESENTATION] = user_inputs
        return inputs

    def _run(self, inputs: np.ndarray, slots: np.ndarray, pasts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """`[B, d_llm]` hidden states at the out tokens, and keys and values `[2 * layers, B, heads, L, d_head]`.

        Args:
            inputs: `[B, L, d_llm]`.
            slots: `[B, L]`.
            pasts: keys and values `[2 * layers, heads, P, d_head]` of what comes before each row.
        """
        starts = np.array([past.shape[2] for past in pasts])
        past = np.zeros((self._parts, len(pasts), self._heads, starts.max(), self._width), dtype=np.float32)
        for row, (start, of_row) in enumerate(zip(starts, pasts, strict=True)):
            past[:, row, :, :start] = of_row
        feed = {
            "inputs": as_float32(inputs),
            "read": (slots == OUT).argmax(axis=1)[:, None],
            "positions": starts[:, None] + np.arange(inputs.shape[1]),
            "present": np.arange(starts.max()) < starts[:, None],
            "past": past,
        }
        hidden, new = self._session.run(None, feed)
        return hidden, new

    def _nothing(self) -> np.ndarray:
        return np.zeros((self._parts, self._heads, 0, self._width), dtype=np.float32)


def model_files(folder: Path) -> Files:
    """The files of a bundle's backbone; those of a hub model are fetched.

    Raises:
        DataError: they cannot be had.
    """
    reference = read_json(folder / "backbone.json")
    if reference["kind"] == "hub":
        return read_files(fetch(reference["model"], reference["revision"]))
    return read_files(folder, follow=True)


def stored(files: Files) -> Iterator[tuple[str, np.ndarray]]:
    """The names and values of all tensors in safetensors files, mapped into memory; bfloat16 as the bits of uint16.

    The layout is the format's own: a header's length in 8 bytes, the header as JSON, the values.
    """
    for name, path in files.items():
        if not name.endswith(".safetensors"):
            continue
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: Mapping[str, Any] = json.loads(file.read(size))
        for tensor, about in header.items():
            if tensor != "__metadata__" and about["dtype"] in TYPES:
                start, shape = 8 + size + about["data_offsets"][0], tuple(about["shape"])
                yield tensor, np.memmap(path, TYPES[about["dtype"]], "r", start, shape)


def as_float32(values: np.ndarray) -> np.ndarray:
    """The same numbers, contiguous; of uint16, those that its bits are as bfloat16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(values, dtype=np.float32)


def distance(vectors: np.ndarray, plain: np.ndarray) -> float:
    """The largest difference of two rows, relative to the length of the second."""
    return float((np.linalg.norm(vectors - plain, axis=1) / np.linalg.norm(plain, axis=1)).max())
