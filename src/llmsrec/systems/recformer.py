"""RECFORMER: histories and items as texts, both through one small encoder."""

import polars as pl

from llmsrec import distributed
from llmsrec.engine import backbone
from llmsrec.models.text import recformer as models
from llmsrec.models.text.item_texts import COLUMNS, ItemTexts
from llmsrec.systems.task import BACKBONE, Ranked, Task
from llmsrec.training import recformer
from llmsrec.training.loop import Curve
from llmsrec.training.validation import Validation

SETTINGS = {"recformer": recformer.Settings}


def train(task: Task) -> Curve:
    """Pre-train and fine-tune on the training split and the catalogue's texts, in the backbone's tokens."""
    settings = task.settings
    catalogue = pl.read_parquet(task.catalogue)
    catalogue = catalogue.select(column for column in COLUMNS.values() if column in catalogue.columns)
    texts = ItemTexts.of(catalogue, backbone.load_tokenizer(BACKBONE), settings.attribute_tokens)
    repeats = task.params.data.repeats
    validation = Validation.of(task.valid, repeats, settings.validation_users, settings.seed)
    model, items, curve = recformer.train(texts, task.sequences, validation, settings, task.resume, task.device)
    if distributed.is_main():
        models.save(task.folder, model, texts, items)
    return curve


def rank(task: Task) -> Ranked:
    """Rank by the cosine of the user's vector and the items' of the second stage."""
    model, texts, items = models.load(task.folder)
    model.to(task.device)
    users = {split: model.vectors(texts, of.histories, split).numpy()[1:] for split, of in task.cases.items()}
    return task.rank_vectors({"items": items.numpy(), **users})
