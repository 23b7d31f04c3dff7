"""Which library runs a bundle's language model on this machine."""

from importlib.util import find_spec
from pathlib import Path


def runtime(folder: Path, on_onnx: bool = False) -> str | None:
    """`onnx` or `torch`; None where nothing that could run it is installed.

    Args:
        folder: of a bundle, which has `layers/` if ONNX Runtime can run its language model.
        on_onnx: prefer ONNX Runtime to torch. Without torch it is taken in any case.
    """
    has_torch = find_spec("torch") is not None
    if (folder / "layers").is_dir() and (on_onnx or not has_torch):
        return "onnx"
    return "torch" if has_torch else None
