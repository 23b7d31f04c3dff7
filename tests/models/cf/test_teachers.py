"""What holds for GRU4Rec, BERT4Rec and NextItNet alike, each against its plain form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.export import onnx
from llmsrec.models.cf import teacher
from llmsrec.models.cf.bert4rec import BERT4Rec
from llmsrec.models.cf.teacher import MASK, Teacher
from tests.models.cf import plain

ITEMS = 20
SHAPES: dict[str, dict[str, Any]] = {
    "gru4rec": {"dim": 8, "hidden": 6, "layers": 2, "max_length": 6, "embedding_dropout": 0.5, "dropout": 0.5},
    "bert4rec": {"dim": 8, "blocks": 2, "heads": 2, "max_length": 6, "dropout": 0.5},
    "nextitnet": {"dim": 8, "dilations": [1, 2], "max_length": 6, "dropout": 0.5},
}
PLAIN: dict[str, Callable[[Any, list[int]], Tensor]] = {
    "gru4rec": plain.gru4rec,
    "bert4rec": plain.bert4rec,
    "nextitnet": plain.nextitnet,
}
histories = st.lists(st.integers(1, ITEMS), min_size=1, max_size=6)


def build(system: str, seed: int = 0) -> Teacher:
    """In evaluation mode; no number is 0 or 1, so that all matter."""
    model = teacher.create(system, ITEMS, SHAPES[system])
    generator = torch.Generator().manual_seed(seed)
    model.initialise(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
            else:
                table = name in ("item.weight", "mask", "position.weight")
                parameter.normal_(0.0, 1.0 if table else 0.5, generator=generator)
        model.item.weight[0] = 0
    return model.eval()


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> Teacher:
    return build(request.param)


def sequences(rows: list[list[int]]) -> Sequences:
    """Users 1.. with these items."""
    offsets = np.cumsum([0, 0, *map(len, rows)])
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    return Sequences(offsets, items, np.zeros(len(items), dtype=np.int64))


def padded(history: list[int], length: int) -> list[int]:
    return [0] * (length - len(history)) + history


@pytest.mark.parametrize("system", SHAPES)
@given(rows=st.lists(histories, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_padded_row_in_a_batch_is_what_the_plain_form_computes_of_the_history_alone(
    system: str, rows: list[list[int]]
) -> None:
    model = build(system, seed=1).double()  # so that the order of additions shows in the last digits alone
    with torch.no_grad():
        vectors = model(torch.tensor([padded(row, 6) for row in rows]))
        assert vectors.shape == (len(rows), 6, 9)
        for row, vector in zip(rows, vectors, strict=True):
            torch.testing.assert_close(vector[-len(row) :], PLAIN[system](model, row), rtol=1e-9, atol=1e-9)


def test_bert4rec_guesses_a_masked_item_from_both_sides() -> None:
    model = build("bert4rec")
    assert isinstance(model, BERT4Rec)
    row = [3, MASK, 4, 1, MASK, 9]
    with torch.no_grad():
        vectors = model(torch.tensor([padded(row, 7)]))[0, 1:]
        torch.testing.assert_close(vectors, plain.bert4rec(model, row), rtol=1e-4, atol=1e-5)
        other = model(torch.tensor([padded([3, MASK, 4, 1, MASK, 10], 7)]))[0, 1:]
    assert (vectors[1, :-1] - other[1, :-1]).abs().max() > 1e-3


@given(row=histories)
@settings(max_examples=15, deadline=None)
def test_bert4recs_user_vector_is_that_of_a_mask_behind_the_whole_history(row: list[int]) -> None:
    model = build("bert4rec")
    assert isinstance(model, BERT4Rec)
    with torch.no_grad():
        expected = plain.bert4rec(model, [*row, MASK])[-1]
        torch.testing.assert_close(model.last(torch.tensor([padded(row, 6)]))[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("system", ["gru4rec", "nextitnet"])
def test_a_later_item_changes_no_earlier_vector(system: str) -> None:
    model = build(system)
    rows = torch.tensor([[0, 0, 3, 1, 4, 1], [5, 9, 2, 6, 5, 3]])
    with torch.no_grad():
        before = model(rows)
        for column in range(2, 6):
            changed = rows.clone()
            changed[:, column] = 17
            after = model(changed)
            torch.testing.assert_close(after[:, :column], before[:, :column], rtol=1e-6, atol=1e-6)
            assert (after[:, column] - before[:, column]).abs().amax(dim=1).min() > 1e-3


def test_nextitnet_sees_as_far_back_as_its_dilations_say() -> None:
    model = teacher.create("nextitnet", ITEMS, SHAPES["nextitnet"] | {"dilations": [1, 2], "max_length": 30})
    model.initialise(torch.Generator().manual_seed(0)).eval()
    row = torch.arange(30)[None] % ITEMS + 1
    with torch.no_grad():
        before = model.last(row)
        for back, matters in ((6 * 3, True), (6 * 3 + 1, False)):
            changed = row.clone()
            changed[0, 29 - back] = changed[0, 29 - back] % ITEMS + 1
            assert torch.equal(model.last(changed), before) != matters


def test_padding_does_not_matter(model: Teacher) -> None:
    with torch.no_grad():
        for history in ([], [7], [7, 8, 9]):
            vectors = [model.last(torch.tensor([padded(history, n)])) for n in range(max(1, len(history)), 7)]
            for vector in vectors:
                assert torch.isfinite(vector).all()
                torch.testing.assert_close(vector, vectors[0], rtol=1e-5, atol=1e-6)


def test_order_matters(model: Teacher) -> None:
    with torch.no_grad():
        vectors = model.last(torch.tensor([[1, 2, 3], [2, 1, 3], [3, 2, 1]]))
    assert torch.pdist(vectors).min() > 1e-2


def test_an_items_bias_is_added_to_its_score_whatever_the_history(model: Teacher) -> None:
    rows = torch.tensor([[0, 1, 2], [3, 4, 5]])
    with torch.no_grad():
        before = model.last(rows) @ model.item_vectors().T
        model.item.weight[7, -1] += 5
        after = model.last(rows) @ model.item_vectors().T
    expected = before.clone()
    expected[:, 7] += 5
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_user_vectors_do_not_depend_on_the_batches(model: Teacher, training: bool) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, ITEMS + 1, rng.integers(0, 12)).tolist() for _ in range(40)]
    model.train(training)
    vectors = model.user_vectors(sequences(rows))
    assert model.training == training and not vectors.requires_grad and vectors.shape == (41, 9)
    for batch_size in (1, 7, 41):
        torch.testing.assert_close(model.user_vectors(sequences(rows), batch_size), vectors, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for row, vector in zip([[], *rows], vectors, strict=True):
            alone = model.eval().last(torch.tensor([row[-6:] or [0]]))[0]
            torch.testing.assert_close(vector, alone, rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_tensor_but_not_the_padding_item(model: Teacher) -> None:
    model.train()
    torch.manual_seed(0)
    rows = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 0, 7, 8, 9]])
    users = torch.cat([model(rows)[rows != 0], model.last(rows)])
    (users @ model.item_vectors()[1:].T).logsumexp(1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert model.item.weight.grad is not None
    assert model.item.weight.grad[0].count_nonzero() == 0
    assert model.item.weight.grad[1:].abs().sum(dim=1).min() > 0


def test_dropout_only_while_training(model: Teacher) -> None:
    rows = torch.tensor([[1, 2, 3]])
    torch.manual_seed(0)
    assert torch.equal(model(rows), model(rows))
    assert not torch.equal(model.train()(rows), model(rows))


@pytest.mark.parametrize("system", SHAPES)
def test_weights_come_from_the_generator_alone(system: str) -> None:
    def fresh(seed: int, state: int) -> dict[str, Tensor]:
        torch.manual_seed(state)
        made = teacher.create(system, ITEMS, SHAPES[system])
        return made.initialise(torch.Generator().manual_seed(seed)).state_dict()

    first, same, other = fresh(1, 1), fresh(1, 2), fresh(2, 1)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["item.weight"], other["item.weight"])
    assert first["item.weight"][0].count_nonzero() == 0 and first["item.weight"][:, -1].count_nonzero() == 0


def test_onnx_runtime_computes_the_same_user_vectors_for_any_batch(model: Teacher, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = torch.tensor([padded(rng.integers(1, ITEMS + 1, n % 7).tolist(), 6) for n in range(70)])
    onnx.export({"teacher": (Last(model), rows[:2])}, tmp_path)
    *_, difference = onnx.compare(Last(model), tmp_path / "teacher.onnx", rows)
    assert difference < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "teacher.onnx")
    assert session.run(None, {"teacher.x": rows[:1].numpy()})[0].shape == (1, 9)


class Last(nn.Module):
    def __init__(self, model: Teacher) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor) -> Tensor:
        return self.model.last(items)


@pytest.mark.parametrize("system", SHAPES)
def test_what_is_saved_is_loaded(system: str, tmp_path: Path) -> None:
    model = build(system).train()
    teacher.save(model, tmp_path / system)
    loaded = teacher.load(tmp_path / system, system)
    assert not loaded.training and loaded.config == model.config and loaded.system == system
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    rows = torch.tensor([[0, 1, 2]])
    assert torch.equal(loaded.last(rows), model.eval().last(rows))
    assert sorted(path.name for path in (tmp_path / system).iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b"[1]"),
        ("config.json", b'{"system": "gru4rec", "items": 20}'),
        ("config.json", b'{"system": "gru4rec", "items": "20", "dim": 8, "hidden": 6, "layers": 2}'),
        ("model.safetensors", None),
        ("model.safetensors", b""),
        ("model.safetensors", b"half"),
    ],
)
def test_missing_or_damaged_files_are_one_clear_error(tmp_path: Path, file: str, content: bytes | None) -> None:
    teacher.save(build("gru4rec"), tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=r"dvc repro|run its stage again"):
        teacher.load(tmp_path, "gru4rec")


@pytest.mark.parametrize("other", ["sasrec", "nextitnet"])
def test_a_folder_of_another_system_is_one_clear_error(tmp_path: Path, other: str) -> None:
    teacher.save(build("gru4rec"), tmp_path)
    with pytest.raises(DataError, match=f"holds a trained gru4rec, not {other}"):
        teacher.load(tmp_path, other)
