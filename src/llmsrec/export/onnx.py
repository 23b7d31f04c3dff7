"""Torch modules as single ONNX files, and the proof that ONNX Runtime computes what torch computes."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from llmsrec.errors import DataError
from llmsrec.serving.bundle import Model

BATCHES = (1, 2, 7, 64)
TOP = 10


class Together(nn.Module):
    """Modules beside each other: a list of inputs, one for each, to the list of their outputs."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [module(rows) for module, rows in zip(self.parts, inputs, strict=True)]


def export(cases: Mapping[str, tuple[nn.Module, Tensor]], folder: Path) -> None:
    """Write each module, of one input and one output, to `folder`/<name>.onnx; any number of rows in a batch.

    They go through the exporter as one model, most of whose time does not depend on how much there is to export, and
    are then cut apart. The same modules give the same bytes: what torch notes down about itself (its own paths and line
    numbers) is left out of the files.

    Args:
        cases: name -> the module, weights and all, and two rows of input at least; all dimensions but the first are
            fixed by it.
    """
    with quiet():
        program = torch.onnx.export(
            Together([module for module, _ in cases.values()]).eval(),
            ([rows for _, rows in cases.values()],),
            dynamo=True,
            dynamic_shapes=([{0: torch.export.Dim(f"{name}_batch")} for name in cases],),
            input_names=[f"{name}.x" for name in cases],
            output_names=[f"{name}.y" for name in cases],
            verbose=False,
        )
    assert program is not None  # only the exporter that was there before dynamo returns None
    parts = onnx.utils.Extractor(program.model_proto)
    folder.mkdir(parents=True, exist_ok=True)
    for name in cases:
        save(parts.extract_model([f"{name}.x"], [f"{name}.y"]), folder / f"{name}.onnx")


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, without what torch notes down about itself."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save_model(model, path, save_as_external_data=False)


def replace(path: Path, before: np.ndarray, after: np.ndarray) -> None:
    """Give a file of `export` another value of one of its constants, such as a longer table of items.

    Raises:
        DataError: not exactly one of its constants is `before`.
    """
    model = onnx.load(path)
    matches = [
        tensor
        for tensor in model.graph.initializer
        if tuple(tensor.dims) == before.shape and np.array_equal(numpy_helper.to_array(tensor), before)
    ]
    if len(matches) != 1:
        raise DataError(
            f"{path.name} of the bundle holds its item table {len(matches)} times, not once, so it gets no longer one; "
            "export the model again (`dvc repro export`)."
        )
    matches[0].CopyFrom(numpy_helper.from_array(after, matches[0].name))
    save(model, path)


def compare(module: nn.Module, path: Path, inputs: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """Run all rows of `inputs` through torch and through ONNX Runtime.

    Returns:
        Both outputs, and their largest difference over all rows in one batch and over batches of 1 to 64 rows, relative
        to the largest output where that is above 1.
    """
    run = Model(path)
    with torch.no_grad():
        expected = module(inputs).numpy()
    actual = run(inputs.numpy())
    worst = np.abs(expected - actual).max()
    for size in BATCHES:
        rows = np.arange(size) % len(inputs)
        worst = max(worst, np.abs(expected[rows] - run(inputs[rows].numpy())).max())
    return expected, actual, float(worst / max(1.0, np.abs(expected).max()))


def same_top(
    expected: tuple[np.ndarray, np.ndarray], actual: tuple[np.ndarray, np.ndarray], tolerance: float
) -> dict[str, int]:
    """Count the users whose top 10 is the same from two pairs of user vectors `[n, d']` and item vectors `[I, d']`.

    Two items whose expected scores differ by no more than `tolerance` (relative to the user's largest score where that
    is above 1) are tied: which of them comes first is rounding, and either order is the same top 10.

    Returns:
        `users`, `identical` (the same items in the same places), `same` (the same but for ties).
    """
    scores, others = expected[0] @ expected[1].T, actual[0] @ actual[1].T
    k = min(TOP, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    theirs = np.argsort(-others, axis=1, kind="stable")[:, :k]
    gap = np.abs(np.take_along_axis(scores, best, 1) - np.take_along_axis(scores, theirs, 1)).max(axis=1)
    slack = tolerance * np.maximum(1, np.abs(scores).max(axis=1))
    return {
        "users": len(scores),
        "identical": int((best == theirs).all(axis=1).sum()),
        "same": int((gap <= slack).sum()),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's remarks on libraries that are not installed, and on its own deprecations, to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
