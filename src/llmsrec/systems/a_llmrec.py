"""A-LLMRec's stage 1, which comes before either of its forms; the forms themselves are in `llm` and `titles`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmsrec.engine.encoder import load_encoder
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.llm import allmrec
from llmsrec.models.llm.allmrec import Autoencoders
from llmsrec.models.llm.settings import changed
from llmsrec.systems.task import BACKBONE, Task
from llmsrec.training import allmrec as training
from llmsrec.training.loop import Curve


def train_stage1(task: Task) -> Curve:
    """Train the two autoencoders and write their codes of all items into `task.folder`."""
    of = task.settings.stage1
    settings = changed(task.params.train, of.train, f"systems/{task.system}.yaml")
    texts = standardised_texts(task, task.folder / "encoder")
    teacher = teachers.load(task.models / task.params.model.teacher, task.params.model.teacher)
    items = teacher.item_vectors().detach()
    model = Autoencoders(items.shape[1], texts.shape[1], of.code, settings.seed)
    curve = training.train(model, teacher, texts, task.sequences, task.valid, of.weights, settings, task.resume)
    events = np.bincount(task.sequences.items, minlength=len(items))
    allmrec.save(task.folder, model, items, texts, events <= of.cold)
    return curve


@torch.no_grad()
def text_codes(task: Task, encoder: Path) -> Tensor:
    """`[I + 1, k]` the codes of the items' texts alone, by the stage 1 that was trained; row 0 is zero.

    Args:
        encoder: a folder for what the text encoder needs.
    """
    codes = allmrec.load(allmrec.STAGE1).text_codes(standardised_texts(task, encoder))
    codes[0] = 0
    return codes


def standardised_texts(task: Task, encoder: Path) -> Tensor:
    """`[I + 1, w]` the text vectors of the task's own items; see `allmrec.standardised`."""
    of, backbone = task.settings.stage1, task.params.backbone
    loading = backbone.dtype, backbone.quantization
    loaded = load_encoder(of.encoder, task.root, encoder, BACKBONE, *loading)
    return allmrec.standardised(text_vectors(loaded, task.titles, of.text_tokens))
