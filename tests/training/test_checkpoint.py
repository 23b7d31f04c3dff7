import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from llmsrec.errors import DataError
from llmsrec.training import checkpoint

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "empty": torch.zeros(0, 4),
    "b": torch.tensor(3),
    "h": torch.ones(3).bfloat16(),
}
STATE = {"epoch": 3, "best": float("-inf"), "curve": [{"loss": 0.1}], "name": "häß"}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in left
    )


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "deep" / "state.safetensors", TENSORS, STATE)
    tensors, state = checkpoint.load(tmp_path / "deep" / "state.safetensors")
    assert same(tensors, TENSORS) and state == STATE
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["state.safetensors"]


def test_views_and_transposed_tensors_are_saved_by_value(tmp_path):
    tensors = {
        "t": torch.arange(6).reshape(2, 3).t(),
        "row": torch.arange(6).reshape(2, 3)[1],
        "wide": torch.ones(1).expand(4),
    }
    checkpoint.save(tmp_path / "x", tensors, {})
    assert same(checkpoint.load(tmp_path / "x")[0], tensors)


def test_no_file_is_none(tmp_path):
    assert checkpoint.load(tmp_path / "state.safetensors") is None


def test_a_damaged_file_counts_as_none_and_says_so(tmp_path, capsys):
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, TENSORS, STATE)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in (0, 3, 30, len(whole) - 1)] + [b"not a checkpoint", whole + b"more"]
    for at in range(0, len(whole), 5):
        damaged.append(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for content in damaged:
        path.write_bytes(content)
        loaded = checkpoint.load(path)
        # a flipped bit may fall on a byte that means nothing (a space in the header): then the content is the same
        assert loaded is None or (same(loaded[0], TENSORS) and loaded[1] == STATE)
        if loaded is None:
            assert f"{path} is damaged" in capsys.readouterr().out
    path.write_bytes(whole[:-1])
    assert checkpoint.load(path) is None


def test_any_other_safetensors_file_counts_as_damaged(tmp_path, capsys):
    from safetensors.torch import save_file

    for metadata in (None, {"state": "{}"}, {"sha256": "0"}):
        save_file({"a": torch.ones(2)}, tmp_path / "x", metadata=metadata)
        assert checkpoint.load(tmp_path / "x") is None
    assert capsys.readouterr().out.count("damaged") == 3


FRESH = {"model/w": torch.zeros(2, 3), "best/w": torch.zeros(2, 3)}
ADAM = {f"optimizer/w/{key}": torch.ones(2, 3) for key in ("exp_avg", "exp_avg_sq")} | {
    "optimizer/w/step": torch.ones(())
}
EXAMPLE = {"curve": [{"epoch": 1, "loss": 0.0}], "best": 0.0, "name": "x"}
SAVED = {"curve": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 1, "more": 1}], "best": 1, "name": "y"}


@pytest.mark.parametrize(
    ("tensors", "state", "said"),
    [
        ({"model/w": torch.full((2, 3), float("nan"))}, {}, "model/w is not finite"),
        ({"optimizer/w/exp_avg": torch.full((2, 3), float("inf"))}, {}, "optimizer/w/exp_avg is not finite"),
        ({"best/w": None}, {}, "best/w is missing"),
        ({"model/w": torch.zeros(3, 2)}, {}, r"model/w is float32 \[3, 2\], not float32 \[2, 3\]"),
        ({"model/w": torch.zeros(2, 3).double()}, {}, "model/w is float64"),
        ({"model/other": torch.zeros(1)}, {}, "model/other is not of this training"),
        ({"optimizer/v/step": torch.ones(())}, {}, "optimizer/v/step is not of this training"),
        ({"optimizer/w/exp_avg": torch.ones(3)}, {}, "optimizer/w/exp_avg is not of this training"),
        ({"optimizer/w/step": None}, {}, "state of w is incomplete"),
        ({}, {"curve": "long"}, "its state"),
        ({}, {"curve": [{"epoch": 1}]}, "its state"),
        ({}, {"curve": [{"epoch": 1, "loss": float("nan")}]}, "its state"),
        ({}, {"curve": [1, 2]}, "its state"),
        ({}, {"best": "1"}, "its state"),
        ({}, {"best": None}, "its state"),
        ({}, {"name": 3}, "its state"),
    ],
)
def test_a_whole_file_that_cannot_be_gone_on_with_is_damaged(tmp_path, capsys, tensors, state, said):
    changed = {name: tensor for name, tensor in (FRESH | ADAM | tensors).items() if tensor is not None}
    checkpoint.save(tmp_path / "x", changed, SAVED | state)
    assert checkpoint.load(tmp_path / "x", FRESH, EXAMPLE) is None
    line = capsys.readouterr().out
    assert re.search(said, line) and "starting from the beginning" in line and line.count("\n") == 1


@pytest.mark.parametrize("tensors", [FRESH, FRESH | ADAM])
def test_a_file_of_the_same_training_is_gone_on_with(tmp_path, tensors):
    checkpoint.save(tmp_path / "x", tensors, SAVED)
    loaded = checkpoint.load(tmp_path / "x", FRESH, EXAMPLE)
    assert loaded and same(loaded[0], tensors) and loaded[1] == SAVED


def test_a_disk_that_fills_is_an_error_and_the_old_checkpoint_stays(tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, TENSORS, STATE)
    script = f"""
import resource, torch
from pathlib import Path
from llmsrec.errors import DataError
from llmsrec.training import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    checkpoint.save(Path({str(path)!r}), {{"a": torch.zeros(100_000)}}, {{}})
except DataError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"cannot write {path}" in run.stdout and "unchanged" in run.stdout
    tensors, state = checkpoint.load(path)
    assert same(tensors, TENSORS) and state == STATE
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model(torch.full((2, 3), float(step + 1))).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_goes_on_as_if_never_stopped(tmp_path, kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model[2].bias.requires_grad_(False)  # a parameter that never has a gradient has no state
    optimizer = kind(model.parameters(), lr=0.1, betas=(0.9, 0.98))
    train(model, optimizer, range(3))
    tensors = checkpoint.optimizer_tensors(optimizer, model.named_parameters())
    assert sorted(tensors)[:3] == ["optimizer/0.bias/exp_avg", "optimizer/0.bias/exp_avg_sq", "optimizer/0.bias/step"]
    checkpoint.save(tmp_path / "x", {**{f"model/{k}": v for k, v in model.state_dict().items()}, **tensors}, {})
    train(model, optimizer, range(3, 6))

    loaded, _ = checkpoint.load(tmp_path / "x")
    resumed = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    resumed[2].bias.requires_grad_(False)
    resumed.load_state_dict({k.removeprefix("model/"): v for k, v in loaded.items() if k.startswith("model/")})
    again = kind(resumed.parameters(), lr=0.1, betas=(0.9, 0.98))
    checkpoint.restore_optimizer(again, resumed.named_parameters(), loaded)
    train(resumed, again, range(3, 6))
    assert same(resumed.state_dict(), model.state_dict())
    assert same(
        checkpoint.optimizer_tensors(again, resumed.named_parameters()),
        checkpoint.optimizer_tensors(optimizer, model.named_parameters()),
    )


HOLD = """
import sys, time
from pathlib import Path
from llmsrec.training import checkpoint
with checkpoint.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_trainer_waits_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "new"
    command = [sys.executable, "-c", HOLD, str(folder)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = second.stdout.readline()
        assert said.startswith(f"waits for another trainer of the same (process {first.pid})") and str(folder) in said
        assert second.poll() is None
        first.kill()
        assert second.stdout.readline() == "held\n"
        assert (folder / "lock").read_text() == str(second.pid)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    with checkpoint.lock(folder):
        assert (folder / "lock").read_text() == str(os.getpid())
    with checkpoint.lock(folder):
        pass


def test_a_lock_where_nothing_can_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"), checkpoint.lock(tmp_path / "file" / "folder"):
        pass
