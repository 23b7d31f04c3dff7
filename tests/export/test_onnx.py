from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from llmsrec.export.onnx import compare, export, same_top
from llmsrec.models.llm.heads import f_llm
from llmsrec.serving.bundle import Model


@pytest.fixture(scope="module")
def head() -> nn.Module:
    torch.manual_seed(0)
    return f_llm(12, 24, 8).eval()


@pytest.fixture(scope="module")
def exported(head: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    export({"head": (head, torch.zeros(2, 12))}, folder)
    return folder / "head.onnx"


def test_one_file_takes_any_batch_and_agrees_with_torch(head: nn.Module, exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["head.onnx"]
    run = Model(exported)
    for size in (1, 3, 64, 200):
        rows = torch.randn(size, 12, generator=torch.Generator().manual_seed(size))
        np.testing.assert_allclose(run(rows.numpy()), head(rows).detach().numpy(), atol=1e-5)


def test_the_same_module_gives_the_same_bytes_without_paths(head: nn.Module, exported: Path, tmp_path: Path) -> None:
    export({"head": (head, torch.randn(5, 12))}, tmp_path)
    content = (tmp_path / "head.onnx").read_bytes()
    assert content == exported.read_bytes()
    assert b".py" not in content


def test_compare_sees_a_changed_weight(head: nn.Module, exported: Path) -> None:
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    expected, actual, difference = compare(head, exported, rows)
    assert difference < 1e-6
    assert expected.shape == actual.shape == (40, 8)
    with torch.no_grad():
        head[3].bias[0] += 0.01
        largest = float(head(rows).abs().max())
        assert compare(head, exported, rows)[2] == pytest.approx(0.01 / max(1, largest), rel=1e-3)
        head[3].bias[0] -= 0.01


def vectors(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(50, 8)), rng.normal(size=(200, 8))


def test_same_top_10_against_sorting_each_user() -> None:
    (users, items), (others, _) = vectors(0), vectors(1)
    mixed = users.copy()
    mixed[::2] = others[::2]
    identical = 0
    for one, two in zip(users, mixed, strict=True):
        first, second = (sorted(range(200), key=lambda i: -scores[i])[:10] for scores in (items @ one, items @ two))
        identical += first == second
    assert same_top((users, items), (mixed, items), 1e-4) == {"users": 50, "identical": identical, "same": identical}
    assert identical == 25


def test_ties_may_come_in_either_order_but_only_ties() -> None:
    user, items = np.ones((1, 1)), np.arange(20.0)[:, None]
    items[10] = items[11]  # the ninth and tenth best are tied ...
    swapped = items.copy()
    swapped[11] += 1e-6  # ... and rounding puts them the other way round
    assert same_top((user, items), (user, swapped), 1e-6) == {"users": 1, "identical": 0, "same": 1}
    swapped[11] += 1.5  # now one is truly before the other, and before a third
    assert same_top((user, items), (user, swapped), 1e-6) == {"users": 1, "identical": 0, "same": 0}


def test_a_catalogue_of_fewer_than_ten_items() -> None:
    users, items = vectors(2)
    assert same_top((users, items[:4]), (users, items[:4]), 1e-6)["identical"] == 50
