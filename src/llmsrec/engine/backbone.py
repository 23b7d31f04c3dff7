"""The frozen language model: found, pinned, tried, loaded.

A backbone folder (`models/backbone/`) says which model it is in `backbone.json`; only an embedded one holds weights.
"""

from dataclasses import dataclass
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from llmsrec.engine.backbone_checks import check_passes, check_tokenizer, check_weights, first_line, longest_input, some
from llmsrec.engine.backbone_files import CONFIG, Files, digest, fetch, only, read_files, stored_tensors, unknown_value
from llmsrec.errors import DataError, LLMSRecError, ParamsError
from llmsrec.files import read_json, sha256, write_json

getLogger("bitsandbytes").setLevel(ERROR)  # it recommends kernels from a hub, and tells of casts
CHANGED = "{} has changed since the backbone stage looked at it; `dvc repro -f backbone` takes it as it is now."


@dataclass(frozen=True)
class Backbone:
    """A frozen model and its tokenizer.

    Attributes:
        model: base model; `inputs_embeds` in, `last_hidden_state` out.
        causal: whether a position sees only what stands before it (measured, not taken from a name).
        limit: longest input in tokens, or None if the model states none.
        whole: the language model around `model`, with its projection onto the vocabulary, where that was loaded too.
    """

    model: nn.Module
    tokenizer: Any
    causal: bool
    limit: int | None
    whole: nn.Module | None = None

    @property
    def width(self) -> int:
        """d_llm, the width of token embeddings and of the hidden states that are read out."""
        return self.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]


def describe(model: str, revision: str | None, root: Path, folder: Path, section: str = "backbone") -> None:
    """Write `folder`/backbone.json for a hub id or a local folder, after loading the model from there and trying it.

    The reference holds the longest input that was tried with success, and a local folder's digest.

    Args:
        model: a path (absolute, or relative to `root`) to a Hugging Face model folder, or a hub id.
        revision: the hub commit, 40 hex digits; a hub id without one is refused, as it would not stay the same model.
        section: where `model` and `revision` were set, for messages.

    Raises:
        DataError: a model that cannot be fetched, or that cannot be used here (see `load`).
        ParamsError: a hub id without a commit.
    """
    local = (root / model).resolve()
    reference: dict[str, Any]
    if local.is_dir():
        reference = {"kind": "local", "model": str(local), "sha256": digest(read_files(local))}
    elif model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise DataError(
            f"`{section}.model` is {model!r}: there is no folder {local}, and it is not a hub id (owner/name). "
            "Give the folder of a Hugging Face model, a .gguf file, a hub id, `smollm2` or `embedded`."
        )
    elif revision is None:
        raise ParamsError(
            f"`{section}.model` is the hub id {model!r} without a commit; set `{section}.revision` to the 40 hex "
            "digits of one (shown in the model's list of files), so that the same params stay the same model."
        )
    else:
        reference = {"kind": "hub", "model": model, "revision": revision}
    print(f"{section} {model}: loading it once, to see that it can be used", flush=True)
    limit = _load(reference, folder, "auto", "none").limit
    print(f"{section} {model}: takes inputs of {limit or 'any number of'} tokens", flush=True)
    write_json(folder / "backbone.json", {**reference, "limit": limit})


def load(folder: Path, dtype: str = "float32", quantization: str = "none", vocabulary: bool = False) -> Backbone:
    """Load the backbone that `folder`/backbone.json names, frozen and in evaluation mode.

    Args:
        dtype: float32, bfloat16 or float16; always explicit, as libraries change their default.
        quantization: none, 8bit (LLM.int8: activations too, so that a vector differs a little with the others of its
            batch) or 4bit (NF4, products in bfloat16), by bitsandbytes.
        vocabulary: whether to load the projection onto the vocabulary too, which titles are written with.

    Raises:
        DataError: missing or changed files, and whatever makes a model unfit: code of its own, weights that are not
            whole, a tokenizer that does not fit, a pass of two prompts that fails, no projection where one is asked
            for.
        ParamsError: quantization without bitsandbytes.
    """
    return _load(read_json(folder / "backbone.json"), folder, dtype, quantization, vocabulary)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer alone of the backbone that `folder`/backbone.json names; its weights are compared, not loaded.

    Raises:
        DataError: missing or changed files.
    """
    with only(_files(read_json(folder / "backbone.json"), folder)) as place:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)


def _load(reference: dict[str, Any], folder: Path, dtype: str, quantization: str, vocabulary: bool = False) -> Backbone:
    options = {} if quantization == "none" else {"quantization_config": _quantization(quantization)}
    files = _files(reference, folder)
    source = str(folder) if reference["kind"] == "embedded" else reference["model"]
    held = stored_tensors(Path(source), files)
    whole, tokenizer, loading = _read(source, files, dtype, options, vocabulary)
    if torch.cuda.is_available() and quantization == "none":
        whole = whole.to("cuda")
    model = whole.base_model if vocabulary else whole
    for module in model.modules():
        # Else bitsandbytes packs 4-bit weights anew in the first pass without a gradient on a CPU, and products with
        # these have none from then on.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    whole.requires_grad_(False)
    whole.eval()
    try:
        if vocabulary:
            loading = _of_base(source, whole, loading)
        check_weights(source, model, loading, held)
        check_tokenizer(source, tokenizer, model.get_input_embeddings().weight.shape[0])
        check_passes(source, model)
        limit = reference["limit"] if "limit" in reference else longest_input(model)
        return Backbone(model, tokenizer, is_causal(model), limit, whole if vocabulary else None)
    except LLMSRecError:
        raise
    except Exception as error:  # anything can be raised by some model of some family
        raise DataError(
            f"the backbone {source} cannot be used: a {type(model).__name__} does not take embeddings and give a "
            f"hidden state for each ({first_line(error)}). Choose a causal language model or an encoder."
        ) from error


def _files(reference: dict[str, Any], folder: Path) -> Files:
    """The files that the reference names, which must be what they were."""
    if reference["kind"] == "embedded":
        source = reference.get("source", {})
        if "path" in source and Path(source["path"]).is_file() and sha256(Path(source["path"])) != source["sha256"]:
            raise DataError(CHANGED.format(source["path"]))
        return read_files(folder, follow=True)
    if reference["kind"] == "hub":
        return read_files(fetch(reference["model"], reference["revision"]))
    files = read_files(Path(reference["model"]))
    if digest(files) != reference["sha256"]:
        raise DataError(CHANGED.format(reference["model"]))
    return files


def _read(
    source: str, files: Files, dtype: str, options: dict[str, Any], vocabulary: bool = False
) -> tuple[Any, Any, dict[str, Any]]:
    """Model (the base, or all of it), tokenizer, and what transformers says of the loading.

    Raises:
        DataError: they cannot be read.
    """
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what it reports is looked at here, and said in a line
    logging.disable_progress_bar()
    try:
        with only(files) as place:
            config = AutoConfig.from_pretrained(place, **safe)
            if "flash_attention" in files[CONFIG].read_text(encoding="utf-8"):
                config._attn_implementation = None  # where flash_attn is missing, its code would come from a hub
            if config.is_encoder_decoder:
                raise DataError(
                    f"the backbone {source} is an encoder-decoder ({config.model_type}), where no single hidden state "
                    "stands for a prompt; choose a causal language model or an encoder."
                )
            tokenizer = AutoTokenizer.from_pretrained(place, **safe)
            kind: Any = AutoModelForCausalLM if vocabulary else AutoModel
            model, loading = kind.from_pretrained(
                place,
                config=config,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused by name afterwards
                **safe,
                **options,
            )
    except LLMSRecError:
        raise
    except Exception as error:  # configurations and tokenizers are read by code of many families
        reason = first_line(error).replace(str(place), source)
        unknown = unknown_value(read_json(files[CONFIG]), f"{error}")
        if unknown is not None:
            reason = f"its config.json has {unknown}, which this transformers does not know ({reason})"
        raise DataError(
            f"the backbone {source} cannot be loaded: {reason}. Take the folder from its source again, or choose "
            "another model."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return model, tokenizer, loading


def _of_base(source: str, whole: Any, loading: dict[str, Any]) -> dict[str, Any]:
    """What transformers says of the loading of the base model within `whole`, under the base model's own names.

    Raises:
        DataError: the projection onto the vocabulary is not in the files.
    """
    prefix = f"{whole.base_model_prefix}."
    lacking = sorted(name for name in loading["missing_keys"] if not name.startswith(prefix))
    if lacking:
        raise DataError(
            f"the backbone {source} has no projection onto its vocabulary ({some(lacking)} is not in its files), so it "
            "cannot write titles; take the model's own causal language model, or the form `retrieval`."
        )
    short = {key: {name.removeprefix(prefix) for name in loading[key]} for key in ("missing_keys", "unexpected_keys")}
    mismatched = {(name.removeprefix(prefix), file, asked) for name, file, asked in loading["mismatched_keys"]}
    return {**loading, **short, "mismatched_keys": mismatched}


def is_causal(model: nn.Module) -> bool:
    """Whether the first position's hidden state ignores what follows it: two inputs that differ later are compared."""
    embeddings = model.get_input_embeddings().weight[:4]  # type: ignore[operator]
    pair = torch.stack([embeddings[[0, 1, 2]], embeddings[[0, 3, 3]]])
    with torch.no_grad():
        hidden = model(inputs_embeds=pair).last_hidden_state
    return bool(torch.allclose(hidden[0, 0], hidden[1, 0], atol=1e-5, rtol=1e-4))


def _quantization(kind: str) -> Any:
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ParamsError(
            f"`backbone.quantization` is {kind!r}, which needs bitsandbytes; `pip install bitsandbytes`, or set it to "
            "none."
        )
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
