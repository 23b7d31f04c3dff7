"""Which library runs a bundle's language model, with and without torch."""

import sys
from pathlib import Path

import pytest

from llmsrec.serving.runtime import runtime


@pytest.mark.parametrize(
    "installed, carried, on_onnx, right",
    [
        (True, True, True, "onnx"),
        (True, True, False, "torch"),
        (True, False, True, "torch"),
        (False, True, False, "onnx"),
        (False, False, True, None),
    ],
)
def test_onnx_runtime_where_it_is_wanted_or_all_that_there_is(
    installed: bool, carried: bool, on_onnx: bool, right: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "torch", None)
    if carried:
        (tmp_path / "layers").mkdir()
    assert runtime(tmp_path, on_onnx) == right
