"""Training CTRL: SASRec from a table of text vectors, and the same from random values beside it."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from llmsrec import distributed, params
from llmsrec.data.sequences import Sequences
from llmsrec.engine.encoder import Encoder
from llmsrec.models.cf.teacher import Teacher, create
from llmsrec.models.text.ctrl import Alignment, text_table
from llmsrec.training import loop, next_item
from llmsrec.training.loop import Curve
from llmsrec.training.validation import METRIC, Validation


class Settings(params.Section):
    """`systems/ctrl.yaml`; what each value is stands there."""

    encoder: Encoder
    text_tokens: int = Field(ge=1)
    scale: float = Field(gt=0)
    alignment: Literal["none", "contrastive"]
    alignment_epochs: int = Field(ge=1)


def first(
    vectors: Tensor,
    sequences: Sequences,
    validation: Validation,
    backbone: params.SASRec,
    settings: Settings,
    resume: Path,
    device: str = "cpu",
) -> tuple[Teacher, Curve]:
    """The SASRec that CTRL's training begins with.

    Args:
        vectors: `[I + 1, w]` the items' texts.
        sequences: training sequences.
        backbone: SASRec's settings.
        resume: the folder that the alignment keeps its state in.

    Returns:
        the model, and a row for each epoch of the alignment, if there is any.

    Raises:
        DataError: another process trains in `resume`, or a checkpoint cannot be written.
    """
    with torch.random.fork_rng():
        random = torch.Generator().manual_seed(backbone.seed)
        model = create("ctrl", len(vectors) - 1, backbone.shape()).initialise(random)
        generator = torch.Generator().manual_seed(backbone.seed)
        with torch.no_grad():
            model.item.weight.copy_(text_table(vectors, backbone.dim, settings.scale, generator))
        if settings.alignment == "none":
            return model, []
        return model, align(model.to(device), vectors.to(device), sequences, validation, backbone, settings, resume)


def align(
    model: Teacher,
    vectors: Tensor,
    sequences: Sequences,
    validation: Validation,
    backbone: params.SASRec,
    settings: Settings,
    resume: Path,
) -> Curve:
    """Pre-train `model` in place: its vectors of histories beside the text of what comes next."""
    pair = Alignment(model, vectors, torch.Generator().manual_seed(backbone.seed)).to(vectors.device).train()
    samples = next_item.Samples.of(sequences, backbone.model_copy(update={"samples": "prefixes"}))
    epochs, seed = settings.alignment_epochs, backbone.seed
    train = loop.plan(batch_size=backbone.batch_size, lr=backbone.lr, epochs=epochs, patience=epochs, seed=seed)

    def losses_at(rows: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        # Dropout knows no other generator than the global one.
        torch.manual_seed(int(rng.integers(2**63)) + distributed.rank())
        items = torch.from_numpy(samples.rows(rows)).to(vectors.device)
        return {"contrast": pair(items[:, :-1], items[:, -1])}

    @torch.no_grad()
    def scores() -> dict[str, float]:
        users, texts = pair.views(model.user_vectors(validation.histories), pair.vectors)
        return {METRIC: validation.score(users.cpu().numpy(), texts.cpu().numpy())}

    print("ctrl: alignment", flush=True)
    users = len(validation.targets)
    return loop.fit(dict(pair.named_parameters()), samples.lengths, losses_at, scores, train, METRIC, users, resume)
