"""Steps and readings of titles on a device that is not the CPU give what they give on the CPU."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.data.choices import Titles
from llmsrec.engine import backbone as backbones
from llmsrec.engine import likelihood, lora
from llmsrec.models.cf.sasrec import SASRec
from llmsrec.models.llm.titles import TitleModel
from llmsrec.prompts.retrieval import PromptSettings
from llmsrec.training.titles import Samples, step_losses
from tests.other_device import other_device
from tests.training.test_titles import SEQUENCES, TITLES, validation


@pytest.mark.parametrize("way", ["in_a_tree", "in_rows", "separately"])
@pytest.mark.parametrize("rank", [0, 2], ids=["frozen", "LoRA"])
def test_steps_and_readings(backbone_folder: Path, settings: Any, rank: int, way: str) -> None:
    holds = replace(PromptSettings.of(settings), user_representation=True, max_tokens=1_000)
    results: list[dict[str, Any]] = []
    for place in (nullcontext("cpu"), other_device()):
        backbone = backbones.load(backbone_folder, vocabulary=True)
        backbone = lora.add_lora(backbone, rank, seed=0) if rank else backbone
        teacher = SASRec(items=len(TITLES), dim=8, blocks=1, heads=1, max_length=6, dropout=0.5)
        teacher.initialise(torch.Generator().manual_seed(1))
        with place as device:
            assert backbone.whole is not None
            backbone.whole.to(device)
            backbone.model.to(device)
            model = TitleModel(backbone, teacher, TITLES, holds, seed=0)
            assert {parameter.device.type for parameter in model.parameters()} == {device}
            model.way = getattr(likelihood, way)
            samples = Samples.of(SEQUENCES, Titles.of(TITLES), True, 4)
            loss = step_losses(model, samples, np.arange(5), np.random.default_rng(0))["title"]
            loss.backward()
            gradients = {name: parameter.grad.cpu() for name, parameter in model.trainable().items()}
            readings = model.read(validation().histories, validation().choices)
            results.append({"loss": float(loss.detach()), "texts": readings.texts, "mean": readings.mean} | gradients)
    ours, theirs = results
    assert ours.pop("texts") == theirs.pop("texts")
    for name, value in theirs.items():
        np.testing.assert_allclose(np.asarray(ours[name]), np.asarray(value), rtol=1e-3, atol=1e-5, err_msg=name)
