"""The frozen language model: found, pinned, tried, loaded.

A backbone folder (`models/backbone/`) says which model it is in `backbone.json`; only an embedded one holds weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from llmsrec.engine.backbone_checks import check_passes, check_tokenizer, check_weights, first_line, longest_input, some
from llmsrec.engine.backbone_files import CONFIG, Files, digest, fetch, only, read_files, stored_tensors, unknown_value
from llmsrec.errors import DataError, LLMSRecError, ParamsError
from llmsrec.files import read_json, sha256, write_json

getLogger("bitsandbytes").setLevel(ERROR)  # it recommends kernels from a hub, and tells of casts
VARIANTS = 64  # of a layer's code that torch.compile makes (with a mask, with a gradient, ...) before it gives up
LoraTargets = Literal["query_value", "all_linear"]
QUERY_VALUE = (  # what families of models call the layers of queries and values
    *(("q_proj", "v_proj"), ("query", "value"), ("query_proj", "value_proj"), ("q_lin", "v_lin"), ("q", "v")),
    *(("q_head", "v_head"), ("q_b_proj", "kv_b_proj")),
    *(("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",)),
)
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


def tuned(backbone: Backbone, loading: Mapping[str, Any], seed: int) -> Backbone:
    """The backbone with the adapters that a model's config.json asks for, if any; see `add_lora`.

    Args:
        loading: `lora_rank` (0: none), and where they are not the usual ones `lora_alpha` and `lora_targets`.
    """
    if not loading["lora_rank"]:
        return backbone
    others = {key: loading[f"lora_{key}"] for key in ("alpha", "targets") if f"lora_{key}" in loading}
    return add_lora(backbone, loading["lora_rank"], seed, **others)


def add_lora(
    backbone: Backbone, rank: int, seed: int, alpha: int | None = None, targets: LoraTargets = "all_linear"
) -> Backbone:
    """The backbone with trainable LoRA adapters; its own weights stay frozen.

    Adapters are float32; beside bfloat16 weights their products run in bfloat16 all the same (autocast).

    Args:
        alpha: what an adapter adds is scaled by alpha / rank; twice the rank if None.
        targets: on which linear layers: all, or those of the attention's queries and values.

    Raises:
        ParamsError: the model has no layers of queries and values.
    """
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        names = "all-linear" if targets == "all_linear" else query_value(backbone.model)
        config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=names)
        model: Any = get_peft_model(backbone.model, config)  # type: ignore[arg-type]
    if backbone.model.dtype == torch.bfloat16:
        model.forward = torch.autocast(model.device.type, torch.bfloat16)(model.forward)
    return replace(backbone, model=model)


def query_value(model: nn.Module) -> list[str]:
    """Names of the linear layers that make the attention's queries and values, as the model at hand calls them; of the
    layer that makes both with the keys, where there is only that.

    Raises:
        ParamsError: the model has none that are known.
    """
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "weight")}
    for members in QUERY_VALUE:
        if names.issuperset(members):
            return list(members)
    raise ParamsError(
        f"`lora.targets` is query_value, but {type(model).__name__} has no layers of queries and values whose names "
        "are known; set it to all_linear."
    )


def checkpoint_layers(model: nn.Module) -> None:
    """Have each layer keep its input for the backward pass and compute the rest again there: the same values and
    gradients from far less memory, for more time (docs/scaling.md).

    transformers' own switch needs training mode, and drops the keys and values that a pass goes on from; here such a
    pass, a few positions long, is left as it is.

    Raises:
        ParamsError: no layer of the model can do so.
    """
    for layer in _layers(model, "gradient_checkpointing", "computed again"):
        layer.gradient_checkpointing = True
        layer.forward = partial(_forward_again, layer.forward)  # type: ignore[method-assign]


def compile_layers(model: nn.Module) -> None:
    """Have torch.compile make kernels of each layer when it first runs: see `compiled`.

    Raises:
        ParamsError: no layer of the model can be, or no compiler works here.
    """
    for layer in _layers(model, "compile", "compiled"):
        layer.forward = compiled(layer.forward)  # type: ignore[method-assign]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for inputs of any length: the same values but for rounding, and a slow first call.

    Raises:
        ParamsError: no compiler works here.
    """
    try_compiler()
    return torch.compile(function, dynamic=True, recompile_limit=VARIANTS)  # type: ignore[call-overload]


@cache
def try_compiler() -> None:
    """Compile something small, once.

    Raises:
        ParamsError: it cannot be done here.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        torch.compile(lambda x: x.neg().relu())(torch.ones(2, device="cuda" if torch.cuda.is_available() else "cpu"))
    except BackendCompilerFailed as error:
        raise ParamsError(
            f"`backbone.compile` is true, but torch.compile fails here ({str(error).splitlines()[0]}); install a C++ "
            "compiler such as g++, or set it to false."
        ) from error


def _layers(model: nn.Module, key: str, done: str) -> list[Any]:
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ParamsError(
            f"`backbone.{key}` is true, but {type(model).__name__} has no layers that can be {done}; set it to false."
        )
    return layers


def _forward_again(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    goes_on = any(isinstance(value, Cache) for value in (*arguments, *options.values()))
    if goes_on or not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, **options)


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
