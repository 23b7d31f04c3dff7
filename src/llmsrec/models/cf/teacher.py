"""What every collaborative-filtering recommender (CF-SRec) has in common, so that any of them can teach LLM-SRec.

The score of an item for a user is the dot product of their vectors: an item's bias, where a system has one, is the last
number of the item's vector, and the user's has a 1 there. All that comes after, ranks and heads and ONNX files, then
knows of vectors alone.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmsrec import distributed
from llmsrec.data.sequences import Sequences
from llmsrec.errors import DataError
from llmsrec.files import atomic, read_json, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
INIT_STD = 0.02
MASK = -1  # in place of an item that is asked for (BERT4Rec)
# system -> its class, in the module of the system's name beside this one. It is imported where it is used alone, so
# that an edit to one system re-trains no other.
CLASSES = {
    "sasrec": "SASRec", "gru4rec": "GRU4Rec", "bert4rec": "BERT4Rec", "nextitnet": "NextItNet", "ctrl": "CTRL",
}  # fmt: skip


class Teacher(nn.Module):
    """Item ids of a history in, the user's vector out.

    Histories are right-aligned: padded with 0 on the left, the latest item last (`Sequences.last`). A history's vector
    does not depend on how much padding it has.

    Attributes:
        system: its name.
        config: the arguments that build it again.
        max_length: the longest history; what is longer loses its oldest items before it comes here.
        item: the items' vectors, `[I + 1, d]`; row 0 is padding.
    """

    system: ClassVar[str]
    config: dict[str, Any]
    max_length: int
    item: nn.Embedding

    def forward(self, items: Tensor) -> Tensor:
        """`items` `[B, L]` int64, L up to `max_length` -> `[B, L, d]`; at padded positions the values mean nothing."""
        raise NotImplementedError

    def last(self, items: Tensor) -> Tensor:
        """The user vectors `[B, d]` of histories `[B, L]`; an empty history has one too, the same at any length."""
        return self(items)[:, -1]

    def last_only(self, items: Tensor) -> Tensor:
        """`last` but for rounding, for training on prefixes: nothing is computed that it does not need."""
        return self.last(items)

    def item_vectors(self) -> Tensor:
        """`[I + 1, d]`; row 0 is padding."""
        return self.item.weight

    @torch.no_grad()
    def user_vectors(self, sequences: Sequences, batch_size: int = 512) -> Tensor:
        """`[U + 1, d]`: each user's vector after the last `max_length` events, without dropout.

        Row 0 is the vector of an empty history. Users of like lengths share a batch, so that little is padded; the
        result does not depend on the batches. Several processes share the batches; each returns all vectors.
        """
        was_training = self.training
        self.eval()
        items = self.item_vectors()
        histories = sequences.last(self.max_length)
        lengths = np.clip(sequences.lengths(), 1, self.max_length)
        vectors = torch.zeros(len(histories), items.shape[1], device=items.device)
        order = np.argsort(lengths, kind="stable")
        for start in range(distributed.rank() * batch_size, len(order), distributed.size() * batch_size):
            users = order[start : start + batch_size]
            batch = torch.from_numpy(histories[users, -lengths[users[-1]] :])
            vectors[torch.from_numpy(users)] = self.last(batch.to(items.device))
        self.train(was_training)
        return distributed.add_up(vectors)

    def initialise(self, generator: torch.Generator) -> "Teacher":
        """Draw all weights anew from `generator` alone; biases and the padding item's vector are 0."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                self.first_values(name, parameter, generator)
            self.item.weight[0] = 0
        return self

    def first_values(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill a parameter with its first values; a LayerNorm's weights stay 1."""
        if parameter.dim() >= 2:
            parameter.normal_(0.0, INIT_STD, generator=generator)
        elif "bias" in name:
            parameter.zero_()


def drop(x: Tensor, rate: float) -> Tensor:
    """Dropout by uniform draws: on a CPU they take a third of the time of `F.dropout`'s Bernoulli draws."""
    if rate == 0:
        return x
    return x * torch.rand_like(x).ge_(rate).div_(1 - rate)


def with_one(vectors: Tensor) -> Tensor:
    """`[..., d]` -> `[..., d + 1]`: a 1 behind, which an item's bias is multiplied with."""
    return torch.cat([vectors, torch.ones_like(vectors[..., :1])], dim=-1)


def create(system: str, items: int, shape: Mapping[str, Any]) -> Teacher:
    """An untrained recommender of `items` items; `shape` holds the other arguments of its class."""
    made: Teacher = getattr(import_module(f"{__package__}.{system}"), CLASSES[system])(items, **shape)
    return made


def save(model: Teacher, folder: Path) -> None:
    """Write the weights, the system's name and its shape to `folder`.

    Raises:
        DataError: a file cannot be written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    write_json(folder / CONFIG, {"system": model.system} | model.config)


def load(folder: Path, system: str | None = None) -> Teacher:
    """Read what `save` wrote, in evaluation mode.

    Args:
        system: the name of the one that should lie there; None for any.

    Raises:
        DataError: a file is missing or damaged, the two do not belong together, or they are another system's.
    """
    config, path = read_json(folder / CONFIG), folder / WEIGHTS
    # SASRec was written without a name when there was no other
    trained = config.pop("system", "sasrec") if isinstance(config, dict) else None
    again = f"`dvc repro {stage(system or trained)}`"
    if trained not in CLASSES:
        raise DataError(f"{folder / CONFIG} names no system that can teach; delete the folder and run {again}.")
    if system is not None and trained != system:
        raise DataError(f"{folder} holds a trained {trained}, not {system}; delete the folder and run {again}.")
    if not path.exists():
        raise DataError(f"{path} is not there; run the stage that writes it ({again}).")
    try:
        model = create(trained, config.pop("items"), config)
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} holds no usable {CLASSES[trained]} ({error}); delete the folder and run {again}."
        ) from error
    return model.eval()


def stage(system: str | None) -> str:
    """The stage that trains it, as `dvc repro` takes it; SASRec's if it has no known name."""
    others = CLASSES.keys() - {"sasrec"}
    return f"baselines/dvc.yaml:train@{system}-retrieval" if system in others else "sasrec"
