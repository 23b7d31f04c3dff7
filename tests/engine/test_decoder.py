"""Running a Llama layer by layer gives what the model's own forward pass gives, gradients too."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)  # fmt: skip

from llmsrec.engine import backbone, lora
from llmsrec.engine.decoder import Decoder, _attend, mask_after
from llmsrec.engine.readout import read_out
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.prompts.retrieval import DAY_MS

SHAPE = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
TITLES = [f"{colour} {thing}" for colour in ("Red", "Blue", "Grün") for thing in ("Soap", "Hair Mask for Men", "Tent")]
HISTORIES = {
    "one": [[3]],
    "ragged": [[3], [1, 2, 9], [4, 4, 4, 4]],
    "longer than the history": [[1, 2, 3, 4, 5, 6, 7, 8], [9, 8]],
}


def model_of(config: Any, kind: Any) -> Any:
    torch.manual_seed(0)
    return kind(config).requires_grad_(False).eval()


def test_with_adapters_values_and_their_gradients_are_the_models_own(
    backbone_folder: Path, teacher: Any, settings: Any
) -> None:
    """Adapters that have learnt: nothing that was kept before they changed is read after it."""
    tuned = lora.add_lora(backbone.load(backbone_folder), 2, seed=0)
    model = LLMSRec(tuned, teacher, TITLES, settings, seed=0)
    assert model.decoder is not None and not model.decoder.frozen
    items = [np.array([3, 1]), np.array([4, 4, 9, 2])]
    batch = model.prompts.users(items, [np.arange(len(row)) * DAY_MS for row in items])
    adapters = {name: parameter for name, parameter in model.trainable().items() if "lora_" in name}
    for seed in (0, 1):
        with torch.no_grad():
            for parameter in adapters.values():
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
        actual = model.decoder.read_out(batch, model.item_inputs, model.user_out)
        plain = read_out(model.backbone, batch, model.item_inputs, model.user_out)
        torch.testing.assert_close(actual, plain, rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(values.square().sum(), list(adapters.values())) for values in (actual, plain)]
        for name, one, other in zip(adapters, *gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    "model",
    [
        model_of(LlamaConfig(**SHAPE), LlamaModel),
        model_of(LlamaConfig(**{**SHAPE, "num_hidden_layers": 1, "num_key_value_heads": 4}), LlamaModel),
        model_of(Qwen2Config(**SHAPE), Qwen2Model),
        model_of(MistralConfig(**SHAPE, sliding_window=None), MistralModel),
    ],
    ids=["Llama, grouped queries", "Llama, one layer", "Qwen2", "Mistral"],
)
def test_values_and_gradients_are_the_models_own(model: Any) -> None:
    decoder = Decoder.of(model)
    assert decoder is not None
    inputs = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    read = torch.tensor([[8, 2], [0, 0], [5, 8]])
    actual = decoder(inputs, read)
    expected = model(inputs_embeds=inputs).last_hidden_state[torch.arange(3)[:, None], read]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(-1, 1, actual.numel()).view(actual.shape)
    gradients = [torch.autograd.grad((values * weights).sum(), inputs)[0] for values in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        model_of(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2), GPT2Model),
        model_of(Qwen3Config(**SHAPE, head_dim=4), Qwen3Model),
        model_of(MistralConfig(**SHAPE, sliding_window=4), MistralModel),
    ],
    ids=["other names", "norms on queries and keys", "a sliding window"],
)
def test_other_layers_are_refused(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    assert Decoder.of(model) is None


@pytest.mark.parametrize("histories", HISTORIES.values(), ids=HISTORIES.keys())
@pytest.mark.parametrize("prompt", ["users", "positions", "items", "users at the limit", "users (c)"])
def test_prompts_are_read_out_as_in_the_plain_form(
    histories: list[list[int]], prompt: str, tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    explicit = prompt == "users (c)"
    limit = 150 if prompt == "users at the limit" else 400
    settings = settings.model_copy(update={"max_tokens": limit, "user_representation": explicit})
    model = LLMSRec(tiny_backbone, teacher, TITLES, settings, seed=0)
    assert model.decoder is not None
    items = [np.array(row) for row in histories]
    times = [DAY_MS * (16_000 + np.arange(len(row))) for row in histories]
    if prompt == "items":
        batch, out = model.prompts.items(np.concatenate(items)), model.item_out
    elif prompt == "positions":
        fit = [row[-model.prompts.always_fit :] for row in items]
        batch, out = model.prompts.positions(fit, times, [1] * len(fit)), model.user_out
    else:
        batch, out = model.prompts.users(items, times), model.user_out
    if limit == 150 and len(histories) > 1:
        assert batch.lengths.max() > 110, "else this is not near the limit"
    assert (batch.constant > 0) == (prompt != "items")
    user_inputs = model.f_U(torch.randn(len(items), 8)) if model.f_U is not None else None
    actual = model.decoder.read_out(batch, model.item_inputs, out, user_inputs)
    plain = read_out(model.backbone, batch, model.item_inputs, out, user_inputs)
    torch.testing.assert_close(actual, plain, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(-1, 1, actual.numel()).view(actual.shape)
    parameters = [*model.f_I.parameters(), out, *(model.f_U.parameters() if model.f_U is not None else [])]
    for values in zip(
        torch.autograd.grad((actual * weights).sum(), parameters, retain_graph=True),
        torch.autograd.grad((plain * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(*values, rtol=1e-5, atol=2e-6 * values[1].abs().max().item())


@pytest.mark.parametrize("masked", [False, True])
def test_in_bfloat16_attention_is_a_loop_over_positions_but_for_its_rounding(masked: bool) -> None:
    """Two histories of 5 positions behind 2 others, 4 heads of which 2 share keys."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8), (2, 2, 2, 8), (2, 2, 2, 8)]
    parts = [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes]
    query, key, value, *past = parts
    layer = SimpleNamespace(self_attn=SimpleNamespace(scaling=8**-0.5))
    mask = None
    if masked:
        present = torch.tensor([[True, False], [True, True]])
        mask = mask_after(present, 5, torch.bfloat16)
    actual = _attend(layer, query, key, value, mask, past)
    assert actual.dtype == torch.bfloat16
    weights = torch.randn(actual.shape, generator=generator)
    gradients = torch.autograd.grad((actual.float() * weights).sum(), parts)
    own = [part.detach().double().requires_grad_() for part in parts]
    rows = []
    for row in range(2):
        for place in range(5):
            heads = []
            for head in range(4):
                keys, values = (torch.cat([own[n + 2][row, head // 2], own[n][row, head // 2]]) for n in (1, 2))
                seen = [n for n in range(3 + place) if not masked or n >= 2 or present[row, n]]
                scores = keys[seen] @ own[0][row, head, place] * 8**-0.5
                heads.append(scores.softmax(dim=0) @ values[seen])
            rows.append(torch.cat(heads))
    expected = torch.stack(rows).view(2, 5, 32)
    torch.testing.assert_close(actual.double(), expected, rtol=0.01, atol=0.01)
    for part, of in zip(gradients, torch.autograd.grad((expected * weights).sum(), own), strict=True):
        assert (part.double() - of).norm() <= 0.01 * of.norm()
