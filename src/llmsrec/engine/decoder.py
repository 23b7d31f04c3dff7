"""A Llama-like decoder, run so that nothing is computed that nobody reads.

The values and gradients are those of the model's own forward pass. What is left out:

- the last layer but for keys and values, at positions that are not read out: its queries, feed-forward layer and norm;
- the first layer's projections of text, forward and backward, but once for each distinct token of a batch: what goes
  into them is a constant (the rotary positions come after them);
- what all user prompts begin with: its keys and values are kept;
- the padding mask: padding is on the right, where a causal model does not look, so attention skips half of the square.

With adapters, which make constants of nothing, the second and the third are computed like all else.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmsrec.engine.readout import ItemInputs, branched, embed, keys_and_values
from llmsrec.engine.wrapped_layers import compiled
from llmsrec.prompts.retrieval import OUT, PromptBatch

PARTS = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "scaling", "head_dim")
Projected = tuple[Tensor, Tensor, Tensor]  # queries, keys, values `[..., heads, d_head]`


class Decoder:
    """Runs the layers of a base model; see `Decoder.of`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers: list[Any] = list(model.layers)
        self.frozen = not any(parameter.requires_grad for parameter in model.parameters())
        self._constants: dict[tuple[int, ...], list[Tensor]] = {}  # token ids -> keys and values of each layer in turn

    @classmethod
    def of(cls, model: Any) -> "Decoder | None":
        """A decoder for `model`, or None if its layers are not Llama's: looked up, then measured on a few positions."""
        config, layers = model.config, getattr(model, "layers", None)
        if not isinstance(layers, nn.ModuleList) or not hasattr(model, "rotary_emb") or not hasattr(model, "norm"):
            return None
        attention = getattr(layers[0], "self_attn", None)
        alike = all(hasattr(layers[0], name) for name in PARTS) and all(hasattr(attention, n) for n in PROJECTIONS)
        if not alike or getattr(config, "sliding_window", None):
            return None
        decoder = cls(model)
        embeddings = model.get_input_embeddings().weight[:7]
        inputs, read = embeddings[None], torch.tensor([[3, 6]], device=embeddings.device)
        with torch.no_grad():
            expected = model(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, [3, 6]].float()
            try:
                actual = decoder(inputs, read)[0]
            except (RuntimeError, TypeError, ValueError, AttributeError):  # shapes or parts of another kind
                return None
        tolerance = 1e-4 if embeddings.dtype == torch.float32 else 0.1
        return decoder if (actual - expected).norm() <= tolerance * expected.norm() else None

    def compile(self) -> None:
        """Have torch.compile make kernels of all layers but the last when they first run; see `compiled`."""
        self._layer = compiled(self._layer)  # type: ignore[method-assign]

    def read_out(
        self, prompts: PromptBatch, item_inputs: ItemInputs, out: Tensor, user_inputs: Tensor | None = None
    ) -> Tensor:
        """As `readout.read_out`."""
        size = prompts.constant if self.frozen else 0
        begun = self._begin(prompts.token_ids[0, :size])
        inputs, slots = embed(self.model, prompts, item_inputs, out, user_inputs)
        inputs, slots = inputs[:, size:], slots[:, size:]
        rows, columns = np.nonzero(prompts.slots == OUT)
        number = np.arange(len(rows)) - np.searchsorted(rows, rows)
        read = np.zeros((len(prompts.slots), number.max() + 1), dtype=np.int64)
        read[rows, number] = columns - size
        positions = torch.arange(size, prompts.slots.shape[1], device=inputs.device)[None]
        options: dict[str, Any] = {"position_ids": positions}
        if prompts.branches is not None:
            mask, positions = branched(prompts, inputs.dtype, inputs.device).values()
            options = {"attention_mask": mask[:, :, size:], "position_ids": positions[:, size:]}
        first = None
        if self.frozen:
            tokens = torch.from_numpy(prompts.token_ids[:, size:]).to(inputs.device)
            first = self._project_first(inputs, slots, tokens)
        past = [part.expand(len(inputs), -1, -1, -1) for part in begun] if begun else None
        hidden = self(inputs, torch.from_numpy(read).to(inputs.device), past=past, first=first, **options)
        return hidden[torch.from_numpy(rows), torch.from_numpy(number)]

    def head(self, prompts: PromptBatch) -> Tensor:
        """Keys and values `[2 * layers, heads, P, d_head]` of what prompts begin with, one token at least."""
        return torch.cat(self._begin(prompts.token_ids[0, : prompts.constant]))

    def _begin(self, token_ids: np.ndarray) -> list[Tensor]:
        """Keys and values `[1, heads, P, d_head]` of each layer in turn, of what all prompts begin with."""
        key = tuple(token_ids.tolist())
        if key and key not in self._constants:
            ids = torch.tensor([key], device=self.model.get_input_embeddings().weight.device)
            self._constants[key] = keys_and_values(self.model, ids)
        return self._constants.get(key, [])

    def __call__(
        self,
        inputs: Tensor,
        read: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past: Sequence[Tensor] | None = None,
        first: Projected | None = None,
        kept: list[Tensor] | None = None,
    ) -> Tensor:
        """Last hidden states at some positions.

        Args:
            inputs: `[B, L, d_llm]`.
            read: `[B, R]` positions.
            attention_mask: `[B, 1, L, P + L]`, added to attention scores; plainly causal if None.
            position_ids: `[B or 1, L]`; 0, 1, ... if None.
            past: keys and values `[B, heads, P, d_head]` of each layer in turn, of what comes before `inputs`; all `P`
                of every row are seen if there is no mask.
            first: the first layer's projections of `inputs`, if they are known.
            kept: gets the keys and values `[B, heads, L, d_head]` of each layer in turn, of `inputs` alone.

        Returns:
            `[B, R, d_llm]` float32.
        """
        if position_ids is None:
            position_ids = torch.arange(inputs.shape[1], device=inputs.device)[None]
        if attention_mask is None and past is not None and past[0].shape[2] > inputs.shape[1]:
            # Few behind many: their rows alone are less than half of the square, which `_attend` takes without a mask.
            present = torch.ones(len(inputs), past[0].shape[2], dtype=torch.bool, device=inputs.device)
            attention_mask = mask_after(present, inputs.shape[1], inputs.dtype)
        rotary = self.model.rotary_emb(inputs, position_ids)
        hidden, last = inputs, len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            earlier = None if past is None else past[2 * number : 2 * number + 2]
            projected = first if number == 0 else None
            arguments = (layer, hidden, projected, rotary, attention_mask, earlier, kept)
            if number == last:
                hidden = self._last_layer(*arguments, read)
            elif getattr(layer, "gradient_checkpointing", False):
                hidden = checkpoint(self._layer, *arguments, use_reentrant=False)
            else:
                hidden = self._layer(*arguments)
        return self.model.norm(hidden).float()

    @torch.no_grad()
    def begin(self, inputs: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Keys and values of texts that something will follow, and their last hidden states.

        Args:
            inputs: `[B, L, d_llm]`, padded on the right.
            lengths: `[B]`.

        Returns:
            `[B, heads, L, d_head]` keys and values of each layer in turn, and `[B, d_llm]` float32.
        """
        parts: list[Tensor] = []
        hidden = self(inputs, lengths[:, None] - 1, kept=parts)
        return parts, hidden[:, 0]

    def _layer(
        self,
        layer: Any,
        hidden: Tensor,
        projected: Projected | None,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: Sequence[Tensor] | None,
        kept: list[Tensor] | None,
    ) -> Tensor:
        query, key, value = projected or self._project(layer, layer.input_layernorm(hidden))
        key, value = _rotate(key, *rotary), value.transpose(1, 2)
        if kept is not None:
            kept += [key, value]
        attended = _attend(layer, _rotate(query, *rotary), key, value, mask, past)
        return _feed_forward(layer, hidden, attended)

    def _last_layer(
        self,
        layer: Any,
        hidden: Tensor,
        projected: Projected | None,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: Sequence[Tensor] | None,
        kept: list[Tensor] | None,
        read: Tensor,
    ) -> Tensor:
        """Keys and values everywhere, all else at `read` alone -> `[B, R, d_llm]`."""
        cos, sin = (part.expand(hidden.shape[0], -1, -1) for part in rotary)
        at_read = [_take(part, read) for part in (cos, sin)]
        if projected is None:
            x = layer.input_layernorm(hidden)
            query = self._heads(layer, "q_proj", _take(x, read))
            key, value = self._heads(layer, "k_proj", x), self._heads(layer, "v_proj", x)
        else:
            query, key, value = projected
            query = _take(query.flatten(2), read).unflatten(2, query.shape[2:])
        if mask is None:
            before = 0 if past is None else past[0].shape[2]
            seen = torch.arange(before + hidden.shape[1], device=hidden.device) <= before + read[..., None]
            mask = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
            mask = mask.masked_fill_(~seen, torch.finfo(hidden.dtype).min)[:, None]
        else:
            mask = _take(mask[:, 0], read)[:, None]
        key, value = _rotate(key, cos, sin), value.transpose(1, 2)
        if kept is not None:
            kept += [key, value]
        attended = _attend(layer, _rotate(query, *at_read), key, value, mask, past)
        return _feed_forward(layer, _take(hidden, read), attended)

    def _project_first(self, inputs: Tensor, slots: Tensor, token_ids: Tensor) -> Projected:
        """The first layer's projections: of each distinct token once, without gradient, and of what is trained."""
        layer, trained = self.layers[0], slots != 0
        with torch.no_grad():
            distinct, where = token_ids.unique(return_inverse=True)
            words = self.model.get_input_embeddings()(distinct)
            table = self._project(layer, layer.input_layernorm(words))
            every = [part[where] for part in table]
        new = self._project(layer, layer.input_layernorm(inputs[trained]))
        for part, values in zip(every, new, strict=True):
            part[trained] = values
        query, key, value = every
        return query, key, value

    def _project(self, layer: Any, x: Tensor) -> Projected:
        return self._heads(layer, "q_proj", x), self._heads(layer, "k_proj", x), self._heads(layer, "v_proj", x)

    def _heads(self, layer: Any, name: str, x: Tensor) -> Tensor:
        """A projection of `[..., d_llm]` by heads, `[..., heads, d_head]`."""
        attention = layer.self_attn
        return getattr(attention, name)(x).unflatten(-1, (-1, attention.head_dim))


def mask_after(present: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """The attention mask `[B, 1, L, P + L]` of `L = size` positions behind `P` others, of which `present` `[B, P]` says
    which are no padding: each sees those, itself, and what stands between.
    """
    steps = torch.arange(size, device=present.device)
    causal = (steps <= steps[:, None]).expand(present.shape[0], -1, -1)
    sees = torch.cat([present[:, None].expand(-1, size, -1), causal], dim=2)
    mask = torch.zeros(sees.shape, dtype=dtype, device=present.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


def _attend(
    layer: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, past: Sequence[Tensor] | None
) -> Tensor:
    """`[B, heads, L, d_head]` each -> `[B, L, heads * d_head]`."""
    before = 0 if past is None else past[0].shape[2]
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        if mask is None:  # a square, of which attention skips half; the added rows are thrown away
            query = F.pad(query, (0, 0, before, 0))
    grouped = key.shape[1] != query.shape[1]
    if grouped and mask is not None and query.is_cuda:
        # No fused kernel of CUDA takes both a mask and shared keys, and without one all scores are kept for backward.
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        grouped = False
    dtype = query.dtype
    if dtype == torch.bfloat16 and not query.is_cuda and any(part.requires_grad for part in (query, key, value)):
        # A processor's kernel is as fast in float32, and its backward pass up to four times faster (short texts).
        # Without gradients values stay the model's own, by which the engine is measured when it is loaded.
        query, key, value = query.float(), key.float(), value.float()
        mask = None if mask is None else mask.float()
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=layer.self_attn.scaling,
        enable_gqa=grouped,
    ).to(dtype)
    if mask is None:
        attended = attended[:, :, before:]
    return attended.transpose(1, 2).flatten(2)


def _feed_forward(layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    hidden = hidden + layer.self_attn.o_proj(attended)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: `[B, L, heads, d_head]` -> `[B, heads, L, d_head]`; `cos`, `sin` `[B or 1, L, d_head]`."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return (x * cos[:, :, None] + rotated * sin[:, :, None]).transpose(1, 2)


def _take(x: Tensor, read: Tensor) -> Tensor:
    """`[B, L, d]` at `read` `[B, R]` -> `[B, R, d]`."""
    return x.gather(1, read[..., None].expand(-1, -1, x.shape[2]))
