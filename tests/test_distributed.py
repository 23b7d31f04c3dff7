import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmsrec import distributed
from llmsrec.errors import DataError
from tests import together

RAGGED = [torch.arange(6.0).reshape(3, 2), torch.empty(0, 2), torch.arange(2.0).reshape(1, 2) + 10]


def gathered() -> list[Any]:
    """A nonlinear loss of all rows, and its gradient at this process's own."""
    own = RAGGED[distributed.rank()].clone().requires_grad_()
    whole = distributed.gather(own)
    (whole.prod(dim=1).sum() ** 2).backward()
    return [whole, own.grad]


def test_gathered_rows_are_in_the_processes_order_and_each_keeps_its_own_gradient() -> None:
    whole = torch.cat(RAGGED).requires_grad_()
    (whole.prod(dim=1).sum() ** 2).backward()
    actual = together.run(3, gathered)
    for rows, _ in actual:
        np.testing.assert_array_equal(rows, whole.detach())
    np.testing.assert_array_equal(np.concatenate([gradient for _, gradient in actual]), whole.grad)
    assert [len(gradient) for _, gradient in actual] == [3, 0, 1]


def spread(count: int) -> list[Any]:
    seen: list[int] = []

    def twice(rows: np.ndarray) -> torch.Tensor:  # two vectors a row
        seen.extend(rows.tolist())
        return torch.from_numpy(rows).float().repeat_interleave(2)[:, None]

    def once(ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(ids).float()[:, None]

    def pairs(ids: np.ndarray) -> np.ndarray:
        return ids // 2

    rows = np.arange(100, 100 + count)
    vectors = distributed.spread_items(once, rows[::-1].copy(), pairs)
    return [distributed.spread_rows(twice, rows), vectors, seen, distributed.own_items(rows, pairs)]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_work_is_spread_and_its_result_is_that_of_one_process(count: int) -> None:
    rows, items, done, own = spread(count)
    assert done == own.tolist() == list(range(100, 100 + count))
    actual = together.run(3, spread, count)
    for result in actual:
        np.testing.assert_array_equal(result[0], rows)
        np.testing.assert_array_equal(result[1], items)
    assert max(len(result[2]) for result in actual) <= -(-count // 3), "each does its share"
    shares = [result[3].tolist() for result in actual]
    assert sorted(item for share in shares for item in share) == own.tolist()
    owners = {item // 2: rank for rank, share in enumerate(shares) for item in share}
    assert all(owners[item // 2] == rank for rank, share in enumerate(shares) for item in share), "a group is cut"


def gradients() -> list[Any]:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), 1.0 + distributed.rank())
    if distributed.is_main():
        parameters[1].grad = torch.tensor([5.0, 7.0])
    distributed.add_up_gradients(parameters)
    return [parameter.grad for parameter in parameters]


def test_gradients_are_added_and_those_that_no_process_has_stay_none() -> None:
    for first, second, third in together.run(2, gradients):
        assert first.tolist() == [3.0, 3.0] and second.tolist() == [5.0, 7.0] and third is None


def agreeing(texts: list[str]) -> str:
    try:
        distributed.agree(texts[distributed.rank()], "data")
    except DataError as error:
        return str(error)
    return ""


def test_processes_that_see_different_files_say_so() -> None:
    assert together.run(2, agreeing, ["a", "a"]) == ["", ""]
    assert any("the 2 processes do not see the same data" in text for text in together.run(2, agreeing, ["a", "b"]))


STAGE = """
import os, signal, sys, time
import torch
from llmsrec import distributed
from llmsrec.errors import DataError
from stages import common

def main(stage):
    print("from", distributed.rank(), "of", distributed.size(), flush=True)
    what = (sys.argv[1:] or [os.environ.get("WHAT")])[0]
    if what == "wrong everywhere" or what == "wrong in one" and not distributed.is_main():
        raise DataError("the file x is empty; give another.")
    if what == "killed" and not distributed.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.add_up(torch.zeros(1))

common.run(main, "toy", parallel=True)
"""


def run_stage(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "stages").mkdir()
    root = Path(__file__).parents[1]
    for name in ("__init__.py", "common.py"):
        (folder / "stages" / name).write_text((root / "stages" / name).read_text())
    (folder / "stages/toy.py").write_text(STAGE)
    (folder / "params.yaml").write_text((root / "params.yaml").read_text())
    (folder / "dvc.yaml").write_text("stages:\n  toy:\n    params: [split]\n")
    return subprocess.run(
        [sys.executable, "-m", "stages.toy"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "what, message",
    [
        ("wrong in one", "error in stage toy: the file x is empty; give another.\n"),
        ("killed", f"error in stage toy: process 1 of 2 was ended by {signal.SIGKILL.name}"),
    ],
)
def test_an_error_in_one_process_ends_all_with_one_line(tmp_path: Path, what: str, message: str) -> None:
    done = run_stage(tmp_path, LLMSREC_PROCESSES="2", WHAT=what)
    assert done.returncode == 1
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == "from 0 of 2\n", "only the first process prints"


def test_a_number_of_processes_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("0", "two", "-1", ""):
        monkeypatch.setenv("LLMSREC_PROCESSES", text)
        with pytest.raises(DataError.__base__, match=f"LLMSREC_PROCESSES is '{text}'"):
            distributed.launch("stages.toy")
    monkeypatch.setenv("LLMSREC_PROCESSES", "1")
    assert not distributed.launch("stages.toy")
