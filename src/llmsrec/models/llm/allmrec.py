"""A-LLMRec's stage 1 (Kim et al., KDD 2024, Sec. 4.1): two autoencoders whose codes of an item meet.

One reads the sequential recommender's item vector, the other the vector of the item's text; both recommender and text
encoder stay frozen (the published code fine-tunes the latter). What stage 2 gives to the language model is the item
code, or, for an item that was never bought, the code of its text.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmsrec.errors import DataError
from llmsrec.files import atomic

STAGE1 = Path("models/a_llmrec-stage1")  # where the pipeline has it
CODES = "codes.safetensors"  # [I + 1, k] each: item, text, joint
WEIGHTS = "model.safetensors"
AGAIN = "`dvc repro baselines/dvc.yaml:stage1@a_llmrec` makes it"


class Autoencoders(nn.Module):
    """The item autoencoder d -> k -> d and the text autoencoder w -> k -> w: linear and sigmoid, then linear.

    Args:
        d, w: widths of item and text vectors.
        k: of the codes.
        seed: for first values, Xavier's.
    """

    def __init__(self, d: int, w: int, k: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.item_encoder, self.item_decoder = nn.Linear(d, k), nn.Linear(k, d)
            self.text_encoder, self.text_decoder = nn.Linear(w, k), nn.Linear(k, w)
            for layer in self.children():
                nn.init.xavier_normal_(layer.weight)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def item_codes(self, vectors: Tensor) -> Tensor:
        """`[n, d]` -> `[n, k]`, each value in (0, 1)."""
        return torch.sigmoid(self.item_encoder(vectors))

    def text_codes(self, vectors: Tensor) -> Tensor:
        """`[n, w]` -> `[n, k]`, each value in (0, 1)."""
        return torch.sigmoid(self.text_encoder(vectors))


def standardised(vectors: Tensor) -> Tensor:
    """Text vectors `[I + 1, w]`, each dimension with mean 0 and deviation 1 over the items; row 0 stays zero.

    A frozen language model's states share a large common part; as they are, the text autoencoder would be about that.
    """
    deviation, mean = torch.std_mean(vectors[1:], dim=0)
    scaled = (vectors - mean) / (deviation + 1e-6)
    scaled[0] = 0
    return scaled


def joint_codes(items: Tensor, texts: Tensor, cold: np.ndarray) -> Tensor:
    """What stage 2 reads: `[I + 1, k]` item codes, but text codes where an item is `cold` (`[I + 1]` bool).

    Row 0 is zero.
    """
    codes = torch.where(torch.from_numpy(cold)[:, None], texts, items)
    codes[0] = 0
    return codes


@torch.no_grad()
def save(folder: Path, model: Autoencoders, items: Tensor, texts: Tensor, cold: np.ndarray) -> None:
    """Write the weights and all codes.

    Args:
        items, texts: `[I + 1, d]` and `[I + 1, w]` vectors.
        cold: see `joint_codes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    codes = {"item": model.item_codes(items), "text": model.text_codes(texts)}
    codes["joint"] = joint_codes(codes["item"], codes["text"], cold)
    write(folder / CODES, codes)
    write(folder / WEIGHTS, dict(model.state_dict()))


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors under their names."""
    with atomic(path) as temporary:
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, temporary)


def load(folder: Path) -> Autoencoders:
    """The autoencoders that `save` wrote.

    Raises:
        DataError: they are missing or damaged.
    """
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
        (k, d), w = tensors["item_encoder.weight"].shape, tensors["text_encoder.weight"].shape[1]
        model = Autoencoders(d, w, k, seed=0)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); {AGAIN}.") from error
    return model


def copy(source: Path, folder: Path) -> None:
    """Put the codes of a stage 1 beside what was trained on them."""
    with atomic(folder / CODES) as temporary:
        shutil.copyfile(source / CODES, temporary)


def read(folder: Path, items: int) -> Tensor:
    """The joint codes `[I + 1, k]` that `save` wrote, for `item_codes` of a model.

    Args:
        items: I, of the catalogue that they should be of.

    Raises:
        DataError: they are missing, damaged or of another catalogue.
    """
    path = folder / CODES
    try:
        codes = load_file(path)["joint"]
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); {AGAIN}.") from error
    if len(codes) != items + 1:
        raise DataError(
            f"{path} has the codes of {len(codes) - 1:,} items, and the catalogue has {items:,}: it is of other data; "
            f"{AGAIN}."
        )
    return codes
