"""Tiny causal language models with random weights, of several families."""

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.engine.families import FAMILIES

# A family, and the way in which its titles share a prompt.
WAYS = {
    "Llama": "in_a_tree",
    "Llama (grouped queries)": "in_a_tree",
    "Qwen 3": "in_a_tree",
    "GPT-2": "in_a_tree",
    "OPT": "in_a_tree",
    "Cohere": "in_a_tree",
    "Granite": "in_a_tree",
    "BLOOM": "in_rows",
    "Gemma 2 (window of 64)": "separately",
    "Mistral (window of 16)": "separately",
    "Mamba": "separately",
}


def language_model(name: str) -> Any:
    """The family's model with its head."""
    family = next(family for family in FAMILIES if family.name == name)
    config = getattr(transformers, family.config or f"{family.model}Config")(**family.options)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.15)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def whole_models() -> dict[str, Any]:
    """Filled as families are asked for."""
    return {}


@pytest.fixture(params=WAYS)
def whole(request: pytest.FixtureRequest, whole_models: dict[str, Any]) -> tuple[Any, str]:
    """A causal language model, and the name of its way."""
    if request.param not in whole_models:
        whole_models[request.param] = language_model(request.param)
    return whole_models[request.param], WAYS[request.param]
