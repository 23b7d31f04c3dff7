"""What is read of a Hugging Face model folder: its configuration, its tokenizer, its safetensors, and nothing else.

A model folder is data. No code of it runs, no pickle of it is opened, and what is not named here is not even seen:
transformers gets a folder that holds links to these files alone.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from llmsrec.errors import DataError, json_in_words, shown
from llmsrec.files import read_json, sha256

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# What a fast tokenizer can be made from where there is no tokenizer.json.
VOCABULARIES = (
    *("vocab.json", "merges.txt", "vocab.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model"),
)

# Keys of a configuration that choose the code of a layer, and the values that are transformers' own code.
CHOICES = {
    "attn_implementation": {"eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"},
    "experts_implementation": {"eager", "batched_mm", "grouped_mm"},
}
KERNELS = {"kernel_config", "use_kernels"}
PACKED = ("I8", "U8", "F8")  # safetensors' names of types that stand for a value only beside a scale

Files = Mapping[str, Path]  # name in the folder -> the file itself, links followed


def read_files(folder: Path, follow: bool = False) -> Files:
    """The files of a model folder that are read.

    Args:
        follow: whether links may lead out of the folder (into DVC's cache, say). Else only those of a hub cache may,
            and only into its own blobs.

    Raises:
        DataError: a configuration, tokenizer or weights that are missing or not valid JSON, a folder that wants code
            of its own to run, an index or a link that leads elsewhere.
    """
    present = {path.name: path for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
    if CONFIG not in present:
        raise DataError(f"{folder} holds no {CONFIG}, so it is not a Hugging Face model folder.")
    settings = [name for name in TOKENIZER_SETTINGS if name in present]
    configuration = _object(present[CONFIG])
    _refuse_code(present[CONFIG], configuration)
    for name in settings:
        _refuse_code(present[name], _object(present[name]))
    if "transformers_weights" in configuration:
        raise DataError(
            f"{present[CONFIG]} names its weights itself (`transformers_weights`); call them {WEIGHTS} and remove "
            "that key."
        )
    vocabulary = [TOKENIZER] if TOKENIZER in present else [name for name in VOCABULARIES if name in present]
    if not vocabulary:
        raise DataError(f"{folder} holds no tokenizer ({TOKENIZER}); copy the model's tokenizer files into it.")
    names = [CONFIG, *settings, *vocabulary, *_weights(folder, present)]
    files = {name: present[name].resolve() for name in names}
    if not follow:
        _keep_inside(folder, files)
    return files


def digest(files: Files) -> str:
    """Hex digest over the names and contents of the files that are read."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{sha256(files[name])}\n".encode())
    return whole.hexdigest()


def identity(folder: Path) -> str:
    """What tells the language model of a backbone folder, or of a bundle's, from any other.

    Raises:
        DataError: its files cannot be read.
    """
    reference = read_json(folder / "backbone.json")
    if reference["kind"] == "hub":
        return f"{reference['model']}@{reference['revision']}"
    local = reference["kind"] == "local"
    return digest(read_files(Path(reference["model"]) if local else folder, follow=not local))


def fetch(model: str, revision: str) -> Path:
    """Bring a hub model's configuration, tokenizer and safetensors into the local cache; resumes where it stopped.

    Returns:
        The folder there.

    Raises:
        DataError: it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        place = snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        endpoint = os.environ.get("HF_ENDPOINT", "the model hub")
        raise DataError(
            f"the backbone {model} at {revision} cannot be fetched from {endpoint}: {str(error).splitlines()[0]} "
            "Check the id, the commit, the network and (for gated models) HF_TOKEN, or name a local folder."
        ) from error
    return Path(place)


@contextmanager
def only(files: Files) -> Iterator[Path]:
    """A folder that holds links to these files and nothing else, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="backbone-") as name:
        folder = Path(name)
        for file, path in files.items():
            (folder / file).symlink_to(path)
        yield folder


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: where it lies, safetensors' name of its type, its shape."""

    path: Path
    dtype: str
    shape: tuple[int, ...]


def stored_tensors(folder: Path, files: Files) -> dict[str, Stored]:
    """The tensors in all weights, by name.

    Args:
        folder: where they lie, for messages.

    Raises:
        DataError: a file of weights that is cut off, or is none; a tensor in two files; packed integers of which the
            configuration does not say what they stand for.
    """
    stored: dict[str, Stored] = {}
    owner: dict[str, str] = {}
    for name, path in files.items():
        if not name.endswith(".safetensors"):
            continue
        try:
            with safe_open(path, "pt") as tensors:
                for tensor in tensors.keys():  # noqa: SIM118 (no mapping)
                    part = tensors.get_slice(tensor)
                    if tensor in owner:
                        raise DataError(
                            f"the tensor {tensor} is in both {folder / owner[tensor]} and {folder / name}, so it is "
                            "not clear which counts; fetch the model again."
                        )
                    owner[tensor], stored[tensor] = name, Stored(path, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise DataError(f"{folder / name} is damaged ({error}); fetch it again.") from error
    packed = [n for n, t in stored.items() if t.dtype.startswith(PACKED) and len(t.shape) in (2, 3)]
    if packed and not _has(_object(files[CONFIG]), ("quantization_config", "compression_config")):
        raise DataError(
            f"{folder / owner[packed[0]]} holds {packed[0]} as {stored[packed[0]].dtype}, a quantized type, but "
            f"{folder / CONFIG} has no `quantization_config` that says how to read it; fetch the model again, or take "
            "one that is not quantized."
        )
    return stored


def _weights(folder: Path, present: Files) -> list[str]:
    if WEIGHTS in present:
        return [WEIGHTS]
    if INDEX not in present:
        raise DataError(
            f"{folder} holds no weights ({WEIGHTS}, or {INDEX} and the files that it names); other formats are not "
            "read, as they can run code."
        )
    parts = _object(present[INDEX]).get("weight_map")
    if not isinstance(parts, dict) or not parts or not all(isinstance(part, str) for part in parts.values()):
        raise DataError(f"{present[INDEX]} has no `weight_map` from tensors to files; fetch it again.")
    names = sorted(set(parts.values()))
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise DataError(
                f"{present[INDEX]} names the weights {shown(name)}; only *.safetensors beside the index are read."
            )
        if name not in present:
            raise DataError(f"{present[INDEX]} names {shown(name)}, which {folder} lacks; fetch it again.")
    return [INDEX, *names]


def _keep_inside(folder: Path, files: Files) -> None:
    places = [folder.resolve()]
    if places[0].parent.name == "snapshots":  # of a hub cache, whose files are links into the blobs beside them
        places.append(places[0].parent.parent / "blobs")
    for name, path in files.items():
        if not any(path.is_relative_to(place) for place in places):
            raise DataError(f"{folder / name} is a link to {path}, outside the folder; put the file itself there.")


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {json_in_words(error)}; fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds {shown(value)} instead of an object; fetch it again.")
    return value


def _refuse_code(path: Path, configuration: dict[str, Any]) -> None:
    for key, value in _entries(configuration):
        kind = key.strip("_").removesuffix("_internal")
        words = value.values() if isinstance(value, dict) else [value]
        unknown = kind in CHOICES and any(word not in (None, *CHOICES[kind]) for word in words)
        if unknown or (kind in KERNELS and value not in (None, False)):
            raise DataError(
                f"{path} asks for code from elsewhere: `{key}` is {shown(value)}, and transformers would fetch that "
                f"from a hub, which never happens here. Remove `{key}` from a copy of the folder."
            )
    if _has(configuration, ("auto_map",)):
        raise DataError(
            f"{path} asks to run code that came with the model (`auto_map`), which never happens here. If transformers "
            "has this kind of model itself, remove `auto_map` from a copy of the folder; else choose another model."
        )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """The keys and values of an object and of all objects within."""
    inner: Any = value if isinstance(value, list) else []
    if isinstance(value, dict):
        yield from value.items()
        inner = value.values()
    for item in inner:
        yield from _entries(item)


def _has(configuration: dict[str, Any], keys: tuple[str, ...]) -> bool:
    return any(key in keys for key, _ in _entries(configuration))


def unknown_value(configuration: dict[str, Any], said: str) -> str | None:
    """The entry of a configuration whose value an error's text names, as `key` and value."""
    for key, value in _entries(configuration):
        if key == "quantization_config" and not isinstance(value, (dict, type(None))):
            return f"`{key}`: {shown(value)}"
        if isinstance(value, str) and value and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said):
            return f"`{key}`: {shown(value)}"
    return None
