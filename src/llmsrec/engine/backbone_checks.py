"""What a language model must be able to do before anything is trained on it, seen on the loaded model itself.

Weights whole and finite, a tokenizer that fits, a forward and a backward pass of padded prompts, the longest input.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from llmsrec.engine.backbone_files import Stored
from llmsrec.errors import DataError, shown
from llmsrec.prompts.retrieval import plain_text_encoder

LENGTH, SHORTER = 8, 5  # tokens of the two prompts that are tried
STATED = (  # names under which configurations state the longest input, in tokens
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length"),
    *("max_sequence_length", "seq_length", "seq_len"),
)
LONGEST_TRIED = 4_096  # tokens: beyond that, an input of the stated length is not run
COMPUTED = ("position_ids", "token_type_ids", "inv_freq", "masked_bias")  # ends of names of buffers
SOME = 3  # names in a message


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line and without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    line = re.split(r"(?<=[.!])\s+(?=[A-Z])", line)[0].rstrip(". ")
    if not line or not isinstance(error, (OSError, ValueError, RuntimeError, ImportError)):
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    return line if len(line) <= 240 else f"{line[:237]}..."


def check_weights(source: str, model: nn.Module, loading: Mapping[str, Any], held: Mapping[str, Stored]) -> None:
    """See that each tensor that the model uses came from its files, in its shape, with finite values.

    Args:
        source: the model as messages name it.
        loading: what transformers says of the loading (`output_loading_info`).
        held: the tensors in its files, by name.

    Raises:
        DataError: naming the first tensors that are not so.
    """
    mismatched = {name: (tuple(file), tuple(asked)) for name, file, asked in loading["mismatched_keys"]}
    absent = sorted({*loading["missing_keys"], *mismatched} - unused(model, {*loading["missing_keys"], *mismatched}))
    if absent:
        of = f"{len(absent)} of the {len(model.state_dict())} tensors that its configuration asks for"
        wrong = [name for name in absent if name in mismatched]
        if wrong:
            file, asked = mismatched[wrong[0]]
            raise DataError(
                f"the backbone {source} cannot be used: {of} have another shape in its files, or none: {wrong[0]} is "
                f"{list(file)}, not {list(asked)}. Its config.json belongs to other weights."
            )
        raise DataError(
            f"the backbone {source} cannot be used: {of} are not in its files ({some(absent)}), so they would be "
            f"random. {_advice(model, absent, held)}"
        )
    beyond = _beyond(model, loading["unexpected_keys"])
    if beyond:
        raise DataError(
            f"the backbone {source} cannot be used: its files hold {len(beyond)} tensors of layers that config.json "
            f"does not have ({some(beyond)}). Its config.json belongs to other weights."
        )
    ignored = _ignored(model, loading["unexpected_keys"], held)
    if ignored:
        raise DataError(
            f"the backbone {source} cannot be used: its files hold {len(ignored)} tensors within its layers that they "
            f"would not use as config.json describes them ({some(ignored)}). Its config.json belongs to other weights."
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise DataError(f"the backbone {source} cannot be used: {name} was left without values. Fetch it again.")
        if tensor.is_floating_point() and tensor.numel() and not _finite(tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            if not _overflows(name, tensor, held):
                raise DataError(
                    f"the backbone {source} cannot be used: {name} is not finite in {dtype}, and its file holds it so: "
                    "the file is damaged. Fetch or convert the model again."
                )
            raise DataError(
                f"the backbone {source} cannot be used: {name} is not finite in {dtype}, but is in its file. Set "
                "`backbone.dtype` to one that holds its values (bfloat16, float32)."
            )


def unused(model: nn.Module, names: Collection[str]) -> set[str]:
    """Those of some parameters that the way from token ids to the last hidden state does not pass.

    A pooler, say. They are given a gradient and a few tokens are run: what gets none takes no part.
    """
    every = dict(model.named_parameters(remove_duplicate=False))
    parameters = {
        name: value
        for name, value in every.items()
        if name in names and value.is_floating_point() and not value.is_meta
    }
    if not parameters:
        return set()
    before = {name: value.requires_grad for name, value in every.items()}
    try:
        model.requires_grad_(False)
        for value in parameters.values():
            value.requires_grad_(True)
        inputs = model.get_input_embeddings()(_ids(model, LENGTH))  # type: ignore[operator]
        with torch.enable_grad():
            total = model(inputs_embeds=inputs, use_cache=False).last_hidden_state.float().sum()
        if not total.requires_grad:
            return set(parameters)
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    except Exception:  # such a model is refused later, with its reason; until then all of it counts
        return set()
    finally:
        for name, value in every.items():
            value.requires_grad_(before[name])
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}


def check_tokenizer(source: str, tokenizer: Any, rows: int) -> None:
    """See that texts become tokens that have a row in the table of embeddings.

    Args:
        rows: of that table.

    Raises:
        DataError: they do not.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the backbone {source} has no fast tokenizer (its {type(tokenizer).__name__} has no tokenizer.json); "
            "convert it once with `tokenizers`, or choose another model."
        )
    soap, tent = plain_text_encoder(tokenizer)([" red soap", " big tent"])
    if not soap or soap == tent:
        raise DataError(
            f"the tokenizer of the backbone {source} makes the same tokens of any text ({shown(soap)}); copy the "
            "model's own tokenizer files into its folder."
        )
    # An added token that no text becomes (plain_text_encoder) may lack a row, as Gemma 3's image token does.
    letters = [number for number, token in tokenizer.added_tokens_decoder.items() if len(token.content) == 1]
    ids = [*tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values(), *letters]
    highest = max([*ids, *tokenizer("a", add_special_tokens=True)["input_ids"]])
    if highest >= rows:
        raise DataError(
            f"the backbone {source} cannot be used: its tokenizer has tokens up to number {highest}, its table of "
            f"embeddings {rows} rows. The tokenizer belongs to another model."
        )


def check_passes(source: str, model: nn.Module) -> None:
    """Run two prompts of unlike length forward and back, as training does.

    Raises:
        DataError: that fails, or its values or gradients are not finite, or vectors have two widths.
    """
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    inputs, mask = _padded(model, LENGTH, SHORTER)
    inputs.requires_grad_(True)
    with torch.enable_grad():
        hidden = model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state
        read = hidden[mask.bool()].float()
        if read.shape[1] != embedding.weight.shape[1]:
            raise DataError(
                f"the backbone {source} cannot be used: it reads vectors of width {embedding.weight.shape[1]} and "
                f"gives vectors of width {read.shape[1]}; choose a model with one width."
            )
        (gradient,) = torch.autograd.grad(read.square().sum(), inputs)
    for what, values in (("hidden states", read), ("gradients", gradient)):
        if not bool(values.isfinite().all()):
            raise DataError(
                f"the backbone {source} cannot be used: its {what} are not finite in "
                f"{str(embedding.weight.dtype).removeprefix('torch.')}; set `backbone.dtype` to float32 or choose "
                "another model."
            )


def stated_limit(config: Any) -> int | None:
    """The longest input in tokens that a configuration states, or None."""
    try:
        text = config.get_text_config()
    except ValueError:  # several of them
        text = config
    values = [getattr(text, name, None) for name in STATED]
    return next((value for value in values if isinstance(value, int) and value > 0), None)


@torch.no_grad()
def longest_input(model: nn.Module) -> int | None:
    """The longest input in tokens: what the configuration states, less what a trial does not bear out.

    A table of learned positions has the last word, as some families leave its first rows unused (RoBERTa). Where there
    is such a table, or another tensor made for that length, an input of the length is run, with padding, and if need be
    shorter ones. Rotary positions have no end, so the stated number is taken as it is.
    """
    tables = _Positions(LENGTH, model.get_input_embeddings().weight)  # type: ignore[operator]
    inputs, mask = _padded(model, LENGTH, SHORTER)
    with tables:
        model(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
    stated = stated_limit(model.config)
    limit = min([*([stated] if stated else []), *tables.lengths], default=None)
    if limit is None or limit > LONGEST_TRIED or not (tables.lengths or _made_for(model, limit)):
        return limit
    if _takes(model, limit):
        return limit
    low, high = LENGTH, limit  # the longest that is taken is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _takes(model, middle) else (low, middle)
    return low


class _Positions(TorchFunctionMode):
    """Watches look-ups in tables of embeddings for those by position.

    Attributes:
        lengths: for each such table, the longest input for which it has rows.
    """

    def __init__(self, length: int, words: Tensor) -> None:
        super().__init__()
        self._length, self._words = length, words
        self.lengths: list[int] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if function is F.embedding:
            places, table = (*args, options.get("weight"))[:2]
            if table is not self._words and places.shape[-1] == self._length:
                rows = places.reshape(-1, self._length)
                if bool((rows[0].diff() == 1).all()) and len(rows) <= 2:
                    self.lengths.append(table.shape[0] - (int(rows.max()) - (self._length - 1)))
        return function(*args, **options)


def _takes(model: nn.Module, length: int) -> bool:
    inputs, mask = _padded(model, length, length // 2)
    try:
        hidden = model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state
    except (IndexError, RuntimeError, ValueError):
        return False
    return bool(hidden[mask.bool()].isfinite().all())


def _made_for(model: nn.Module, length: int) -> bool:
    """Whether a buffer (a mask, a table of sines) has about so many rows."""
    return any(length <= size <= length + 8 for buffer in model.buffers() for size in buffer.shape)


def _ids(model: nn.Module, length: int) -> Tensor:
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    return (torch.arange(length, device=table.device) % table.shape[0])[None]


def _padded(model: nn.Module, length: int, shorter: int) -> tuple[Tensor, Tensor]:
    """Embeddings `[2, length, d]` of any tokens, and a mask under which the second row has `shorter` of them."""
    with torch.no_grad():
        inputs = model.get_input_embeddings()(_ids(model, length)).repeat(2, 1, 1)  # type: ignore[operator]
    mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
    mask[1, shorter:] = 0
    return inputs, mask


def _finite(tensor: Tensor) -> bool:
    low, high = tensor.detach().aminmax()
    return bool(low.isfinite() & high.isfinite())


def _advice(model: nn.Module, absent: list[str], held: Collection[str]) -> str:
    """What to do about tensors that the files seem to lack: often they are there, under a longer name."""
    wanted, prefixes = set(absent), Counter[str]()
    for name in held:
        parts = name.split(".")
        cut = next((k for k in range(1, len(parts)) if ".".join(parts[k:]) in wanted), None)
        if cut is not None:
            prefixes[".".join(parts[:cut]) + "."] += 1
    if not prefixes:
        return "Fetch the model again, with the config.json that belongs to its weights."
    # transformers itself knows what a model with a head calls its base ("model.").
    prefix = prefixes.most_common(1)[0][0].removesuffix(f"{getattr(model, 'base_model_prefix', '')}.")
    return f"The files have these names with `{prefix}` before them: save the weights again without that."


def _beyond(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Tensors that the model has too, but in another, lower layer."""
    own = model.state_dict().keys()
    kinds = {_kind(name) for name in own}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return sorted(n for n in unexpected if n not in own and _kind(n.removeprefix(prefix)) in kinds and "#" in _kind(n))


def _ignored(model: nn.Module, unexpected: Iterable[str], held: Mapping[str, Stored]) -> list[str]:
    """Tensors of modules that the model has, such as biases, that it does not take.

    Heads of other tasks stand beside the base model's modules, not in them. Buffers that older versions saved (masks,
    position ids, rotary frequencies) are computed.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return []  # scales and the like, which the method's own code looks after
    modules = {name for name, _ in model.named_modules() if name}
    buffers = {name for name, _ in model.named_buffers()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."

    def within(name: str) -> bool:
        parts = name.split(".")
        above = [".".join(parts[:k]) for k in range(1, len(parts))]
        return any(m in modules and (m == above[-1] or m[m.rfind(".") + 1 :].isdecimal()) for m in above)

    def computed(name: str) -> bool:
        short = name.removeprefix(prefix)
        mask = name in held and (len(held[name].shape) == 4 or held[name].dtype in ("BOOL", "I64"))
        return short in buffers or mask or name.endswith(COMPUTED)

    return sorted(
        name for name in unexpected if not computed(name) and (within(name) or within(name.removeprefix(prefix)))
    )


def _overflows(name: str, tensor: Tensor, held: Mapping[str, Stored]) -> bool:
    """Whether a tensor that is not finite is finite in its file, so that the cast to a smaller type made it so."""
    stored = next((n for n in held if n == name or n.endswith(f".{name}")), None)
    if stored is None:  # put together from others
        return tensor.dtype == torch.float16 and not bool(tensor.isnan().any())
    with safe_open(held[stored].path, "pt") as tensors:
        return _finite(tensors.get_tensor(stored))


def _kind(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)


def some(names: Collection[str]) -> str:
    """The first few names."""
    return ", ".join(sorted(names)[:SOME]) + (", ..." if len(names) > SOME else "")
