"""A-LLMRec's stage 1, which comes before either of its forms; the forms themselves are in `llm` and `titles`."""

import numpy as np

from llmsrec.engine.text_vectors import load_encoder, text_vectors
from llmsrec.models.cf import teacher as teachers
from llmsrec.models.llm import allmrec
from llmsrec.models.llm.allmrec import Autoencoders
from llmsrec.models.llm.settings import changed
from llmsrec.systems.task import BACKBONE, MODELS, Task
from llmsrec.training import allmrec as training
from llmsrec.training.loop import Curve


def train_stage1(task: Task) -> Curve:
    """Train the two autoencoders and write their codes of all items into `task.folder`."""
    of, backbone = task.settings.stage1, task.params.backbone
    settings = changed(task.params.train, of.train, f"systems/{task.system}.yaml")
    loading = backbone.dtype, backbone.quantization
    encoder = load_encoder(
        of.encoder.model, of.encoder.revision, task.root, task.folder / "encoder", BACKBONE, *loading
    )
    texts = allmrec.standardised(text_vectors(encoder, task.titles, of.text_tokens))
    teacher = teachers.load(MODELS / task.params.model.teacher, task.params.model.teacher)
    items = teacher.item_vectors().detach()
    model = Autoencoders(items.shape[1], texts.shape[1], of.code, settings.seed)
    curve = training.train(model, teacher, texts, task.sequences, task.valid, of.weights, settings, task.resume)
    events = np.bincount(task.sequences.items, minlength=len(items))
    allmrec.save(task.folder, model, items, texts, events <= of.cold)
    return curve
