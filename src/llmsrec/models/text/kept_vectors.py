"""The file of the titles' text vectors, between the stage that computes them and the training that reads them."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmsrec.errors import DataError
from llmsrec.files import atomic

FILE = "vectors.safetensors"


def write(folder: Path, vectors: Tensor) -> None:
    """Write `[I + 1, w]` text vectors (`engine.text_vectors`).

    Raises:
        DataError: the file cannot be written.
    """
    with atomic(folder / FILE) as temporary:
        save_file({"vectors": vectors}, temporary)


def read(folder: Path) -> Tensor:
    """What `write` wrote.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    try:
        return load_file(folder / FILE)["vectors"]
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(
            f"{folder / FILE} cannot be read ({error}); delete {folder} and run `dvc repro stages/items/dvc.yaml`."
        ) from error
