"""A teacher's item vectors made of the items' titles (sasrec.items), while it is trained; afterwards they are a table.

    text         E = X P
    sum          E = X P + R
    null_space   E = [X_1..k * s | R]

X `[I + 1, r]` are whitened text vectors of the titles, which stay as they are: the backbone's mean hidden states over
the title, the part of an item's prompt that depends on nothing that is trained later. P `[r, d]` is learned, R holds a
learned vector for each item's id, and s `[k]` scales each of k = d / 2 components.

`text` is WhitenRec (see `whitening`) with a linear map, which Sheng et al., "Language Representations Can be What
Recommenders Need", 2025 (AlphaRec), find to be enough; it has no ids, so an item has all of its vector by its title.
`sum` adds ids as a residual. `null_space` keeps text and ids in columns of their own, ids where titles differ least:
Hu et al., "AlphaFuse: Learn ID Embeddings for Sequential Recommendation in Null Space of Language Embeddings", 2025,
with half of the columns each, as there; s is ours.

Rows of X have a mean square length of 1, so that a step of Adam moves an item's vector by P about as far as by R.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from llmsrec.errors import DataError
from llmsrec.files import atomic
from llmsrec.models.cf.teacher import INIT_STD, Teacher
from llmsrec.models.text.whitening import Whitening

FILE = "titles.safetensors"  # beside a teacher's weights: gives vectors to items that it never saw
SCALE = 3.0  # of the text's first values, relative to an id's; CTRL's (systems/ctrl.yaml)
JOIN: dict[str, Callable[..., Tensor]] = {  # X, what is learned with it, and perhaps R
    "text": lambda texts, projection: texts @ projection,
    "sum": lambda texts, projection, ids: texts @ projection + ids,
    "null_space": lambda texts, scale, ids: torch.cat([texts[:, : len(scale)] * scale, ids], dim=1),
}


class FromTitles(nn.Module):
    """The item table as a function of what is learned, for `torch.nn.utils.parametrize`.

    Args:
        items: text | sum | null_space.
        texts: `[I + 1, r]` X.
    """

    texts: Tensor

    def __init__(self, items: str, texts: Tensor) -> None:
        super().__init__()
        self.items = items
        self.register_buffer("texts", texts, persistent=False)

    def forward(self, *learned: Tensor) -> Tensor:
        """`[I + 1, d]`."""
        return JOIN[self.items](self.texts, *learned)

    def right_inverse(self, table: Tensor) -> tuple[Tensor, ...]:
        """First values: of the text its first components, of the ids those of `table`."""
        rank, dim = self.texts.shape[1], table.shape[1]
        scale = INIT_STD * SCALE * rank**0.5
        if self.items == "null_space":
            of_text = min(dim // 2, rank)
            return table.new_full((of_text,), scale), table[:, of_text:].clone()  # fused Adam wants no view
        projection = scale * torch.eye(rank, dim, dtype=table.dtype, device=table.device)
        return (projection, table) if self.items == "sum" else (projection,)


def attach(teacher: Teacher, items: str, vectors: Tensor) -> Whitening:
    """Let an untrained teacher's item vectors be made of titles; `detach` ends it.

    Args:
        teacher: with its first values.
        items: text | sum | null_space.
        vectors: `[I + 1, w]` (`engine.text_vectors`).

    Returns:
        what `detach` needs.

    Raises:
        DataError: all titles have the same vector.
    """
    whitening = Whitening.of(vectors)
    if not len(whitening.directions.T):
        raise DataError(
            f"`sasrec.items` is {items}, but the vectors of all {len(vectors) - 1:,} titles are the same, so that they "
            "tell no item from another; set it to id, or look at data/filtered/items.parquet and `backbone.model`."
        )
    texts = whitening(vectors) / whitening.directions.shape[1] ** 0.5
    made = FromTitles(items, texts.to(teacher.item.weight))
    parametrize.register_parametrization(teacher.item, "weight", made)
    return whitening


@torch.no_grad()
def detach(teacher: Teacher, whitening: Whitening) -> dict[str, Tensor]:
    """Make the teacher's item vectors a plain table again, so that nothing after the training knows of titles.

    Returns:
        `projection` `[w, d]` and `bias` `[d]`, float32: text vectors `[n, w]` of titles that it never saw, times one
        and plus the other, are vectors for their items, with the mean of the known ids' vectors where ids have a part.
    """
    of: Any = teacher.item.parametrizations.weight  # type: ignore[union-attr]
    made, learned = of[0], [getattr(of, f"original{number}").double() for number in range(of.ntensors)]
    learned[1:] = [ids[1:].mean(dim=0, keepdim=True) for ids in learned[1:]]
    rank = made.texts.shape[1]
    rows = torch.eye(rank + 1, rank, dtype=torch.float64, device=made.texts.device)  # the last is zero
    learned[1:] = [ids.expand(len(rows), -1) for ids in learned[1:]]
    of_rows = JOIN[made.items](rows, *learned).cpu()
    bias = of_rows[-1]
    projection = whitening.directions @ (of_rows[:-1] - bias) / rank**0.5
    parametrize.remove_parametrizations(teacher.item, "weight", leave_parametrized=True)
    return {"projection": projection.float(), "bias": (bias - whitening.mean @ projection).float()}


def save(folder: Path, of_titles: dict[str, Tensor]) -> None:
    """Write what `detach` returned beside a teacher's weights.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic(folder / FILE) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in of_titles.items()}, temporary)


def load(folder: Path) -> dict[str, Tensor] | None:
    """What `save` wrote; None of a teacher that knows its items by ids alone.

    Raises:
        DataError: it cannot be read.
    """
    if not (folder / FILE).exists():
        return None
    try:
        return load_file(folder / FILE)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{folder / FILE} cannot be read ({error}); delete {folder}, run `dvc repro sasrec`."
        ) from error
