"""The loop: the best check is kept, and a killed run goes on to the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec.params import Train
from llmsrec.training import checkpoint
from llmsrec.training.loop import fit, optimizer_of, plan

SCRIPT = Path(__file__).with_name("train_tiny.py")


def start(tiny: Any, out: Path, resume: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(tiny.folder), str(out), str(resume), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def whole(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    finish(start(tiny, out, out / "resume"))
    return out


def test_a_killed_run_goes_on_to_the_same_weights(tiny: Any, whole: Path, tmp_path: Path) -> None:
    process = start(tiny, tmp_path, tmp_path / "resume")
    state = tmp_path / "resume/state.safetensors"
    deadline = time.monotonic() + 240
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    saved = checkpoint.load(state)
    assert saved is not None
    assert not (tmp_path / "model.safetensors").exists(), "it was killed before its end"
    assert "going on after step" in finish(start(tiny, tmp_path, tmp_path / "resume"))
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (tmp_path / "curve.json").read_bytes() == (whole / "curve.json").read_bytes()


def test_two_runs_agree_and_another_seed_does_not(tiny: Any, whole: Path, tmp_path: Path) -> None:
    finish(start(tiny, tmp_path / "a", tmp_path / "a/resume"))
    finish(start(tiny, tmp_path / "b", tmp_path / "b/resume", "seed=8"))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, tmp_path / "a", tmp_path / "b")]
    assert weights[0] == weights[1] != weights[2]


def test_the_curve_has_checks_with_losses_and_named_metrics(whole: Path) -> None:
    curve = json.loads((whole / "curve.json").read_text())
    assert [entry["epoch"] for entry in curve] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], abs=0.05)
    for entry in curve:
        assert entry["loss"] == pytest.approx(entry["retrieval"] + entry["distill"] + entry["uniform"], rel=1e-4)
        assert 0 <= entry["valid/uni99/ndcg_10"] <= entry["valid/uni99/hr_10"] <= 1
        assert entry["users"] == 30


def test_the_weights_are_those_of_the_best_check(tiny: Any, whole: Path) -> None:
    curve = json.loads((whole / "curve.json").read_text())
    best = max(entry["valid/uni99/ndcg_10"] for entry in curve)
    assert json.loads((whole / "final.json").read_text())["valid/uni99/ndcg_10"] == best


def test_training_lowers_the_loss(whole: Path) -> None:
    curve = json.loads((whole / "curve.json").read_text())
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_early_stopping_ends_a_run_that_does_not_improve(tiny: Any, tmp_path: Path) -> None:
    finish(start(tiny, tmp_path, tmp_path / "resume", "lr=1e-12", "patience=2"))
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert len(curve) == 3, "one best check and two without a better score"


def test_a_second_trainer_on_one_resume_folder_waits(tiny: Any, tmp_path: Path) -> None:
    with checkpoint.lock(tmp_path / "resume"):
        process = start(tiny, tmp_path, tmp_path / "resume")
        assert process.stdout is not None
        waits = next((line for line in process.stdout if "waits for another trainer" in line), "")
        assert f"process {os.getpid()}" in waits and process.poll() is None
    finish(process)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(("scored", "kept"), [([0.5, 0.4, 0.3], 0), ([0.1, 0.4, 0.3], 1)])
def test_a_check_before_the_first_step_counts_as_any_other(scored: list[float], kept: int, tmp_path: Path) -> None:
    weight, seen, answers = torch.nn.Parameter(torch.zeros(())), list[float](), iter(scored)

    def scores() -> dict[str, float]:
        seen.append(float(weight.detach()))
        return {"valid/full/ndcg_10": next(answers)}

    given = plan(batch_size=2, lr=0.1, lr_decay=0.5, epochs=2, patience=9, seed=0)
    parameters, lengths = {"weight": weight}, np.ones(6, dtype=np.int64)
    losses = lambda rows, rng: {"loss": -weight}  # noqa: E731
    curve = fit(parameters, lengths, losses, scores, given, "valid/full/ndcg_10", 7, tmp_path, check_first=True)
    assert [entry["step"] for entry in curve] == [0, 3, 6]
    assert "loss" not in curve[0] and curve[0]["users"] == 7
    assert seen == pytest.approx([0.0, 0.3, 0.45]), "three steps at the full rate, then three at half of it"
    assert float(weight.detach()) == seen[kept]


def test_inputs_learn_more_slowly_than_the_rest(tiny: Any) -> None:
    parameters = tiny.model.trainable()
    settings = Train.model_construct(lr=0.01, input_lr=0.1, beta2=0.9, weight_decay=0.0)
    optimizer = optimizer_of(parameters, settings)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # Adam's first step is the rate itself, whatever the gradient's size
    moved = {name: float((before[name] - parameter).detach().mean()) for name, parameter in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(before[name])
            parameter.grad = None
    for name, distance in moved.items():
        assert distance == pytest.approx(0.001 if name.startswith("f_I.") else 0.01, rel=1e-3), name
