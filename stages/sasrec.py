"""Trains SASRec, the frozen collaborative-filtering teacher of LLM-SRec (paper, Sec. 3.1)."""

from pathlib import Path

import polars as pl
import torch

from llmsrec import distributed
from llmsrec.data import held_out
from llmsrec.data.sequences import Sequences
from llmsrec.errors import ParamsError
from llmsrec.files import write_json
from llmsrec.models.cf import teacher
from llmsrec.models.text import item_vectors, kept_vectors
from llmsrec.training import start
from llmsrec.training.next_item import build, train
from stages.common import Stage, run

SPLIT, OUT, TEXTS = Path("data/split"), Path("models/sasrec"), Path("models/texts")


def main(stage: Stage) -> None:
    interactions, settings = Sequences.read(Path("data/filtered/interactions.parquet")), stage.params.sasrec
    items = int(interactions.items.max())
    first, begin, whitening = None, start.read(Path("models/start")), None
    if begin and settings.items != "id":
        raise ParamsError(
            f"`sasrec.items` is {settings.items}, but {begin.version} in `train.start` has item vectors as one table, "
            "in which titles' and ids' parts are not apart; set sasrec.items to id, or train.start to scratch."
        )
    if settings.items != "id":
        first = build(items, settings)
        whitening = item_vectors.attach(first, settings.items, kept_vectors.read(TEXTS))
    if begin:
        begin.check(start.shape_of("sasrec", settings, settings.shape().keys() - {"dropout"}))
        first = build(items, settings)
        known = begin.fill_teacher(first, pl.read_parquet("data/filtered/items.parquet")["parent_asin"].to_list())
        print(f"sasrec: begins from {begin.version}, which knows {known:,} of {items:,} items", flush=True)
    valid = held_out.read(interactions, SPLIT, "valid", stage.params.split.by)
    model, curve = train(
        Sequences.read(SPLIT / "train.parquet", interactions.users),
        histories=valid.histories,
        targets=valid.targets,
        items=items,
        settings=settings,
        resume=stage.resume,
        repeats=stage.params.data.repeats,
        device="cuda" if torch.cuda.is_available() else "cpu",
        first=first,
    )
    of_titles = item_vectors.detach(model, whitening) if whitening else None
    if distributed.is_main():
        teacher.save(model, OUT)
        if of_titles:
            item_vectors.save(OUT, of_titles)
        write_json(OUT / "curve.json", curve)


if __name__ == "__main__":
    run(main, "sasrec", parallel=True)
