import json
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
from llmsrec.models.cf import sasrec, teacher
from llmsrec.models.cf.block import Block
from llmsrec.models.cf.sasrec import SASRec

ITEMS = 20
BERT: dict[str, Any] = {"norm": "post", "feed_forward": 4, "activation": "gelu"}
FORMS: dict[str, dict[str, Any]] = {"pre": {}, "post": BERT, "filter": BERT | {"low_pass": 0.7}}


def build(form: str, seed: int = 0, size: float = 10.0) -> SASRec:
    """In evaluation mode, with matrices `size` times as large as the first values: large enough for all to matter."""
    model = SASRec(ITEMS, dim=8, blocks=2, heads=2, max_length=6, dropout=0.5, **FORMS[form])
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size if parameter.dim() == 2 else 1)
    return model.eval()


@pytest.fixture(params=FORMS)
def model(request: pytest.FixtureRequest) -> SASRec:
    return build(request.param)


def sequences(histories: list[list[int]]) -> Sequences:
    """Users 1.. with these items."""
    offsets = np.cumsum([0, 0, *map(len, histories)])
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return Sequences(offsets, items, np.zeros(len(items), dtype=np.int64))


def padded(history: list[int], length: int) -> list[int]:
    return [0] * (length - len(history)) + history


def plain(model: SASRec, history: list[int]) -> Tensor:
    """The vectors `[L, d]` of one history without padding or batch, query by query and head by head."""
    length, dim = len(history), model.item.embedding_dim
    post = model.config["norm"] == "post"
    x = torch.stack(
        [
            model.item.weight[item] * (1 if post else dim**0.5) + model.position.weight[length - 1 - i]
            for i, item in enumerate(history)
        ]
    )
    x = model.norm(x) if post else x
    for block in model.blocks:
        if post:
            mixed = block.attention_norm(x + attended(block, x))
            if weight := model.config["low_pass"]:
                mixed = weight * block.filter_norm(x + filtered(block, x, model.max_length)) + (1 - weight) * mixed
            x = block.feed_forward_norm(mixed + block.outer(activated(block.inner(mixed), model)))
        else:
            x = x + attended(block, block.attention_norm(x))
            x = x + block.outer(activated(block.inner(block.feed_forward_norm(x)), model))
    return x if post else model.norm(x)


def attended(block: Block, x: Tensor) -> Tensor:
    length, dim = x.shape
    width = dim // block.heads
    query, key, value = block.query_key_value(x).chunk(3, dim=-1)
    joined = torch.zeros(length, dim)
    for i in range(length):
        for head in range(block.heads):
            part = slice(head * width, (head + 1) * width)
            scores = torch.stack([query[i, part] @ key[j, part] / width**0.5 for j in range(i + 1)])
            weights = scores.exp() / scores.exp().sum()
            joined[i, part] = sum(weights[j] * value[j, part] for j in range(i + 1))
    return block.output(joined)


def filtered(block: Block, x: Tensor, max_length: int) -> Tensor:
    """By Fourier transforms there and back, over the longest history's length, as BSARec filters."""
    waves = torch.fft.rfft(torch.cat([torch.zeros(max_length - len(x), x.shape[1]), x]), dim=0)
    waves[sasrec.LOWEST :] = 0
    low = torch.fft.irfft(waves, n=max_length, dim=0)[-len(x) :]
    return low + block.high_frequencies**2 * (x - low)


def activated(x: Tensor, model: SASRec) -> Tensor:
    if model.config["activation"] == "relu":
        return x.clamp(min=0)
    return x * (1 + torch.erf(x / 2**0.5)) / 2


histories = st.lists(st.integers(1, ITEMS), min_size=1, max_size=6)


@pytest.mark.parametrize("form", FORMS)
@given(rows=st.lists(histories, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_padded_row_in_a_batch_equals_the_same_history_alone(form, rows):
    model = build(form, seed=1, size=1.0)
    with torch.no_grad():
        vectors = model(torch.tensor([padded(row, 6) for row in rows]))
        for row, actual in zip(rows, vectors, strict=True):
            torch.testing.assert_close(actual[-len(row) :], plain(model, row), rtol=1e-4, atol=1e-5)


def test_parts_that_matter_agree_with_the_plain_form(model):
    """As above with weights so large that attention is far from even."""
    row = [3, 1, 4, 1, 5, 9]
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor([row]))[0], plain(model, row), rtol=1e-4, atol=1e-4)


def test_the_last_vector_alone_is_the_last_of_all(model):
    rows = torch.tensor([[0, 0, 3, 1, 4, 1], [5, 9, 2, 6, 5, 3], [0, 0, 0, 0, 0, 7], [0, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(model.last_only(rows), model.last(rows), rtol=1e-5, atol=1e-6)
    weights = torch.linspace(-1, 1, 8)  # any
    actual, expected = (
        torch.autograd.grad((vectors * weights).sum(), list(model.parameters()))
        for vectors in (model.last_only(rows), model.last(rows))
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["pre", "post"])
def test_a_later_item_changes_no_earlier_vector(form):
    model = build(form)
    rows = torch.tensor([[0, 0, 3, 1, 4, 1], [5, 9, 2, 6, 5, 3]])
    with torch.no_grad():
        before = model(rows)
        for column in range(2, 6):
            changed = rows.clone()
            changed[:, column] = 17
            after = model(changed)
            torch.testing.assert_close(after[:, :column], before[:, :column], rtol=0, atol=0)
            assert (after[:, column:] - before[:, column:]).abs().amax(dim=2).min() > 1e-3


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 50])
def test_the_filters_matrix_is_a_fourier_transform_there_and_back(length):
    sequence = torch.randn(length, 3, generator=torch.Generator().manual_seed(0))
    waves = torch.fft.rfft(sequence, dim=0)
    waves[sasrec.LOWEST :] = 0
    actual = sasrec.low_pass_matrix(length) @ sequence
    torch.testing.assert_close(actual, torch.fft.irfft(waves, n=length, dim=0), rtol=1e-5, atol=1e-6)


def test_padding_does_not_matter(model):
    with torch.no_grad():
        for history in ([], [7], [7, 8, 9]):
            vectors = [model.last(torch.tensor([padded(history, n)])) for n in range(max(1, len(history)), 7)]
            for vector in vectors:
                assert torch.isfinite(vector).all()
                torch.testing.assert_close(vector, vectors[0], rtol=1e-5, atol=1e-6)


def test_order_and_place_matter(model):
    with torch.no_grad():
        vectors = model.last(torch.tensor([[1, 2, 3], [2, 1, 3], [3, 2, 1]]))
    assert torch.pdist(vectors).min() > 1e-2


@pytest.mark.parametrize("training", [True, False])
def test_user_vectors_do_not_depend_on_the_batches(model, training):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, ITEMS + 1, rng.integers(0, 12)).tolist() for _ in range(40)]
    model.train(training)
    vectors = model.user_vectors(sequences(rows))
    assert model.training == training and not vectors.requires_grad and vectors.shape == (41, 8)
    for batch_size in (1, 7, 41):
        torch.testing.assert_close(model.user_vectors(sequences(rows), batch_size), vectors, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for row, vector in zip([[], *rows], vectors, strict=True):
            alone = model.eval().last(torch.tensor([row[-6:] or [0]]))[0]
            torch.testing.assert_close(vector, alone, rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_tensor_but_not_the_padding_item(model):
    model.train()
    torch.manual_seed(0)
    rows = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 0, 7, 8, 9]])
    users = model(rows)[rows != 0]
    (users @ model.item_vectors()[1:].T).logsumexp(1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert model.item.weight.grad[0].count_nonzero() == 0
    assert model.item.weight.grad[1:].abs().sum(dim=1).min() > 0
    assert model.position.weight.grad.abs().sum(dim=1).min() > 0


def test_dropout_only_while_training(model):
    rows = torch.tensor([[1, 2, 3]])
    torch.manual_seed(0)
    assert torch.equal(model(rows), model(rows))
    assert not torch.equal(model.train()(rows), model(rows))


@pytest.mark.parametrize("form", FORMS)
def test_weights_come_from_the_generator_alone(form):
    def fresh(seed: int, state: int) -> dict[str, Tensor]:
        torch.manual_seed(state)
        return build(form, seed).state_dict()

    first, same, other = fresh(1, 1), fresh(1, 2), fresh(2, 1)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["item.weight"], other["item.weight"])
    assert first["item.weight"][0].count_nonzero() == 0


def test_what_is_saved_is_loaded(model, tmp_path):
    teacher.save(model.train(), tmp_path / "sasrec")
    loaded = teacher.load(tmp_path / "sasrec")
    assert not loaded.training and loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    rows = torch.tensor([[0, 1, 2]])
    assert torch.equal(loaded.last(rows), model.eval().last(rows))
    assert sorted(p.name for p in (tmp_path / "sasrec").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b"[1]"),
        ("config.json", b'{"items": 20}'),
        ("config.json", b'{"items": "20", "dim": 8, "blocks": 1, "heads": 1, "max_length": 6, "dropout": 0}'),
        (
            "config.json",
            b'{"items": 20, "dim": 8, "blocks": 2, "heads": 2, "max_length": 6, "dropout": 0, "norm": "no"}',
        ),
        ("config.json", b'{"items": 19, "dim": 8, "blocks": 2, "heads": 2, "max_length": 6, "dropout": 0.5}'),
        ("model.safetensors", None),
        ("model.safetensors", b""),
        ("model.safetensors", b"half"),
    ],
)
def test_missing_or_damaged_files_are_one_clear_error(tmp_path, file, content):
    teacher.save(build("pre"), tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=r"dvc repro|run its stage again"):
        teacher.load(tmp_path)


def test_a_cut_weights_file_is_an_error(model, tmp_path):
    teacher.save(model, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="holds no usable SASRec"):
        teacher.load(tmp_path)


def test_config_is_plain_json(tmp_path):
    teacher.save(build("filter"), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "system": "sasrec",
        "items": ITEMS,
        "dim": 8,
        "blocks": 2,
        "heads": 2,
        "max_length": 6,
        "dropout": 0.5,
        "norm": "post",
        "feed_forward": 4,
        "activation": "gelu",
        "low_pass": 0.7,
    }


def test_a_folder_written_before_the_forms_came_is_the_first_form(tmp_path):
    model = build("pre")
    teacher.save(model, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({key: model.config[key] for key in list(model.config)[:6]}))
    rows = torch.tensor([[0, 1, 2]])
    assert torch.equal(teacher.load(tmp_path).last(rows), model.last(rows))


class Last(nn.Module):
    def __init__(self, model: SASRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: Tensor) -> Tensor:
        return self.model.last(history)


@pytest.mark.parametrize("form", ["pre", "filter"])
def test_onnx_agrees_at_every_batch_size(form, tmp_path):
    model = build(form)
    path = tmp_path / "sasrec.onnx"
    batch = torch.export.Dim("batch")
    example = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 4, 5, 6]])
    torch.onnx.export(
        Last(model).eval(), (example,), path, dynamo=True, dynamic_shapes={"history": {0: batch}}, external_data=False
    )
    session = onnxruntime.InferenceSession(path)
    rng = np.random.default_rng(0)
    for size in range(1, 65):
        rows = rng.integers(1, ITEMS + 1, (size, 6))
        rows[np.arange(6) < rng.integers(0, 7, size)[:, None]] = 0  # empty histories too
        (actual,) = session.run(None, {"history": rows})
        with torch.no_grad():
            expected = model.last(torch.from_numpy(rows)).numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
