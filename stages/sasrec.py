"""Trains SASRec, the frozen collaborative-filtering teacher of LLM-SRec (paper, Sec. 3.1)."""

from pathlib import Path

import polars as pl
import torch

from llmsrec import distributed
from llmsrec.data.sequences import Sequences
from llmsrec.files import write_json
from llmsrec.models import sasrec
from llmsrec.training import start
from llmsrec.training.sasrec import SHAPE, build, train
from stages.common import Stage, run

OUT = Path("models/sasrec")


def main(stage: Stage) -> None:
    interactions, settings = Sequences.read(Path("data/filtered/interactions.parquet")), stage.params.sasrec
    items = int(interactions.items.max())
    first, begin = None, start.read(Path("models/start"))
    if begin:
        begin.check(start.shape_of("sasrec", settings, SHAPE - {"dropout"}))
        first = build(items, settings)
        known = begin.fill_teacher(first, pl.read_parquet("data/filtered/items.parquet")["parent_asin"].to_list())
        print(f"sasrec: begins from {begin.version}, which knows {known:,} of {items:,} items", flush=True)
    model, curve = train(
        Sequences.read(Path("data/split/train.parquet")),
        histories=interactions.drop_last(2),
        targets=Sequences.read(Path("data/split/valid.parquet")).items,
        items=items,
        settings=settings,
        resume=stage.resume,
        device="cuda" if torch.cuda.is_available() else "cpu",
        first=first,
    )
    if distributed.is_main():
        sasrec.save(model, OUT)
        write_json(OUT / "curve.json", curve)


if __name__ == "__main__":
    run(main, "sasrec", parallel=True)
