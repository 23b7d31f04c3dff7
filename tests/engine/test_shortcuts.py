"""Cheaper passes are taken only where they were measured to be right: windows, adapters, padding, failures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    FNetConfig,
    FNetModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
)

from llmsrec.engine import backbone, lora
from llmsrec.engine.readout import read_out, read_out_by_length
from llmsrec.engine.yardstick import Yardstick, busy_adapters, distance
from llmsrec.errors import DataError
from llmsrec.models.llm.retrieval import LLMSRec
from llmsrec.prompts.retrieval import DAY_MS, Prompts, PromptSettings
from tests.tiny_models import TITLES

SHAPE = {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip


def model_of(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.15)
    return model.requires_grad_(False).eval()


def build(model: Any, tiny_backbone: Any, teacher: Any, settings: Any, causal: bool = True) -> LLMSRec:
    return LLMSRec(backbone.Backbone(model, tiny_backbone.tokenizer, causal, None), teacher, TITLES, settings, seed=0)


def mistral(window: int) -> Any:
    return model_of(MistralModel, MistralConfig(**SHAPE, sliding_window=window))


def test_a_model_that_is_wrong_beyond_its_window_alone_is_measured_beyond_it(
    tiny_backbone: Any, teacher: Any, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same model; only the prompts that the settings allow become longer."""
    short = build(mistral(200), tiny_backbone, teacher, settings.model_copy(update={"history": 1}))
    assert short.trunk and short.prefixes is not None
    assert "apart" not in capsys.readouterr().out
    long = build(mistral(200), tiny_backbone, teacher, settings)
    assert not long.trunk
    assert long.prefixes is not None, "item prompts are shorter than the window"
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    assert out[1].startswith("each history of a user is run by itself: in one pass, vectors are ")


def test_a_model_that_changes_its_ways_at_a_length_has_prompts_on_either_side(
    tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    """Longrope turns all positions in another way once an input is longer than a limit."""
    prompts = Prompts(tiny_backbone.tokenizer, TITLES, PromptSettings.of(settings))
    by_length = np.argsort(prompts.title_sizes[1:], kind="stable") + 1
    day = [np.array([15_000 * DAY_MS])]
    low, high = (int(prompts.users([np.array([item])], day).lengths[0]) for item in by_length[[0, -1]])
    assert low < high

    def longrope(limit: int) -> Any:
        rope = {"rope_type": "longrope", "original_max_position_embeddings": limit, "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4, "factor": 4.0, "rope_theta": 10_000.0}  # fmt: skip
        return model_of(LlamaModel, LlamaConfig(**SHAPE, rope_parameters=rope))

    for limit in (low + 1, (low + high) // 2, high + 20):
        assert not build(longrope(limit), tiny_backbone, teacher, settings).trunk, limit
    assert build(longrope(2), tiny_backbone, teacher, settings).trunk, "of one way alone"


def test_a_window_is_measured_through_adapters(tiny_backbone: Any, teacher: Any, settings: Any) -> None:
    def trunk(window: int) -> bool:
        base = backbone.Backbone(mistral(window), tiny_backbone.tokenizer, True, None)
        model = LLMSRec(lora.add_lora(base, 2, seed=0), teacher, TITLES, settings, seed=0)
        assert model.prefixes is None and model.decoder is None
        zero = [not parameter.any() for name, parameter in model.trainable().items() if "lora_B" in name]
        assert zero and all(zero), "what was set for the measuring is put back"
        return model.trunk

    assert trunk(10_000)
    assert not trunk(64)


def test_adapters_that_are_still_zero_are_busy_while_they_are_measured(tiny_backbone: Any) -> None:
    copy = replace(tiny_backbone, model=model_of(MistralModel, MistralConfig(**SHAPE)))
    model = lora.add_lora(copy, 2, seed=0).model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with busy_adapters(model):
        for name, parameter in model.named_parameters():
            assert parameter.any(), name
            assert torch.equal(parameter, before[name]) == ("lora_B" not in name)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@torch.no_grad()
def test_a_model_that_mixes_padding_in_runs_in_batches_of_one_length(
    tiny_backbone: Any, teacher: Any, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fnet = model_of(FNetModel, FNetConfig(vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=1))
    model = build(fnet, tiny_backbone, teacher, settings, causal=False)
    assert not model.padding
    assert "batches of one length" in capsys.readouterr().out
    items = [np.array([1]), np.array([2, 3, 4]), np.array([5])]
    times = [DAY_MS * np.arange(15_000, 15_000 + len(row)) for row in items]
    prompts = [model.prompts.users([i], [t]) for i, t in zip(items, times, strict=True)]
    alone = torch.cat([read_out(fnet, prompt, model.item_inputs, model.user_out) for prompt in prompts])
    assert distance(model.hidden_users(items, times), alone) < 1e-5
    padded = read_out(fnet, model.prompts.users(items, times), model.item_inputs, model.user_out)
    assert distance(padded, alone) > 0.01, "else this test shows nothing"


def test_prompts_by_length_come_in_their_order_with_their_own_user_inputs(
    tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    model = LLMSRec(tiny_backbone, teacher, TITLES, settings.model_copy(update={"user_representation": True}), seed=0)
    items = [np.array([1, 2]), np.array([3]), np.array([4, 5]), np.array([6, 7, 8])]
    prompts = model.prompts.users(items, [DAY_MS * np.arange(len(row)) for row in items])
    arguments = (tiny_backbone.model, prompts, model.item_inputs, model.user_out, model._some_user_inputs(4))
    torch.testing.assert_close(read_out_by_length(*arguments), read_out(*arguments), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_tokens", [150, 400])
def test_what_is_measured_is_as_long_as_prompts_can_become(
    tiny_backbone: Any, teacher: Any, settings: Any, max_tokens: int
) -> None:
    limited = settings.model_copy(update={"max_tokens": max_tokens})
    prompts = Prompts(tiny_backbone.tokenizer, TITLES, PromptSettings.of(limited))
    inputs = torch.nn.Embedding(len(TITLES) + 1, 16).requires_grad_(False)
    yardstick = Yardstick(tiny_backbone.model, prompts, inputs, torch.zeros(16), None, torch.zeros(16))
    rng = np.random.default_rng(0)
    histories = [rng.permutation(len(TITLES))[: settings.history] + 1 for _ in range(200)]
    times = [DAY_MS * np.sort(rng.integers(0, 40_000, settings.history)) for _ in histories]
    assert yardstick.longest >= prompts.users(histories, times).lengths.max() - 3 * settings.history, "but for dates"
    assert yardstick.longest <= max_tokens


def test_a_model_that_cannot_run_the_longest_prompt_is_one_clear_error(
    tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    short = model_of(FNetModel, FNetConfig(vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                           max_position_embeddings=50))  # fmt: skip
    with pytest.raises(DataError, match=r"FNetModel cannot run a prompt of \d+ tokens \(.*\); choose") as caught:
        build(short, tiny_backbone, teacher, settings, causal=False)
    assert "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_one_clear_error(tiny_backbone: Any, teacher: Any, settings: Any) -> None:
    model = mistral(10_000)
    model.norm.weight.fill_(torch.inf)
    with pytest.raises(DataError, match=r"MistralModel gives values that are not finite .* `backbone\.dtype`"):
        build(model, tiny_backbone, teacher, settings)


def test_the_out_tokens_start_as_the_embedding_module_gives_them(
    tiny_backbone: Any, teacher: Any, settings: Any
) -> None:
    scaled = model_of(Gemma3TextModel, Gemma3TextConfig(**SHAPE))
    for base in (scaled, tiny_backbone.model):
        model = build(base, tiny_backbone, teacher, settings)
        for out, tail in ((model.user_out, model.prompts.user_tail), (model.item_out, model.prompts.item_tail)):
            assert torch.equal(out, base.get_input_embeddings()(torch.tensor(tail))[-1])
    tail = model.prompts.user_tail[-1]
    size = scaled.get_input_embeddings().weight[tail].norm()
    assert (build(scaled, tiny_backbone, teacher, settings).user_out.norm() / size).item() == pytest.approx(4, rel=1e-3)
