"""CTRL: SASRec from its items' texts, and beside it its control, the same SASRec from random values."""

from pathlib import Path

import numpy as np
from torch import Tensor

from llmsrec import distributed
from llmsrec.engine.encoder import load_encoder
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.models.cf import teacher
from llmsrec.systems.task import BACKBONE, Ranked, Task
from llmsrec.training import checkpoint, ctrl, next_item
from llmsrec.training.loop import Curve
from llmsrec.training.validation import Validation

OWN, CONTROL = "ctrl", "ctrl_random"  # names in reports
SETTINGS = {"ctrl": ctrl.Settings}


def train(task: Task) -> Curve:
    """Train both.

    Returns:
        a row for each epoch, those of the alignment first; the control's figures stand as `control/...` beside those
        of the same epoch.
    """
    repeats, settings = task.params.data.repeats, task.params.sasrec
    validation = Validation.of(task.valid, repeats)
    vectors = texts(task)
    begin, aligned = ctrl.first(
        vectors, task.sequences, validation, settings, task.settings, task.resume / "alignment", task.device
    )
    curves = {}
    for name, first in ((OWN, begin), (CONTROL, None)):
        print(f"ctrl: {name}", flush=True)
        model, curves[name] = next_item.train(
            task.sequences,
            task.valid.histories,
            task.valid.targets,
            task.items,
            settings,
            task.resume / name,
            task.device,
            first,
            repeats,
        )
        if distributed.is_main():
            teacher.save(model, folder(task, name))
    return beside(aligned, curves[OWN], curves[CONTROL])


def rank(task: Task) -> Ranked:
    """Rank with both."""
    own, control = (task.rank_vectors(vectors(task, name)) for name in (OWN, CONTROL))
    own.beside[CONTROL] = control.ranks
    return own


def folder(task: Task, name: str) -> Path:
    """CTRL's is the task's, as it may teach LLM-SRec; its control's is below."""
    return task.folder if name == OWN else task.folder / name


def vectors(task: Task, name: str) -> dict[str, np.ndarray]:
    """The vectors of the items and of all users, by one of the two."""
    model = teacher.load(folder(task, name)).to(task.device)
    users = {split: model.user_vectors(of.histories).cpu().numpy()[1:] for split, of in task.cases.items()}
    return {"items": model.item_vectors().detach().cpu().numpy(), **users}


def texts(task: Task) -> Tensor:
    """`[I + 1, w]` the titles' vectors, which a training that goes on has already."""
    path = task.resume / "texts.safetensors"
    if (kept := checkpoint.load(path)) is not None:
        return kept[0]["vectors"]
    backbone = task.params.backbone
    loading = backbone.dtype, backbone.quantization
    loaded = load_encoder(task.settings.encoder, task.root, task.folder / "encoder", BACKBONE, *loading)
    made = text_vectors(loaded, task.titles, task.settings.text_tokens)
    checkpoint.save(path, {"vectors": made}, {})
    return made


def beside(aligned: Curve, own: Curve, control: Curve) -> Curve:
    """One curve: the alignment's epochs, then those of CTRL with its control's figures beside them."""
    rows = [{"epoch": number, "loss": row["loss"]} for number, row in enumerate(aligned, start=1)]
    for number in range(max(len(own), len(control))):
        row = {"epoch": len(aligned) + number + 1}
        if number < len(own):
            row |= {key: value for key, value in own[number].items() if key != "epoch"}
        if number < len(control):
            row |= {f"control/{key}": value for key, value in control[number].items() if key != "epoch"}
        rows.append(row)
    return rows
