"""Trains SASRec, the frozen collaborative-filtering teacher of LLM-SRec (paper, Sec. 3.1)."""

from pathlib import Path

import torch

from llmsrec import distributed
from llmsrec.data.sequences import Sequences
from llmsrec.files import write_json
from llmsrec.models import sasrec
from llmsrec.training.sasrec import train
from stages.common import Stage, run

OUT = Path("models/sasrec")


def main(stage: Stage) -> None:
    interactions = Sequences.read(Path("data/filtered/interactions.parquet"))
    model, curve = train(
        Sequences.read(Path("data/split/train.parquet")),
        histories=interactions.drop_last(2),
        targets=Sequences.read(Path("data/split/valid.parquet")).items,
        items=int(interactions.items.max()),
        settings=stage.params.sasrec,
        resume=stage.resume,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    if distributed.is_main():
        sasrec.save(model, OUT)
        write_json(OUT / "curve.json", curve)


if __name__ == "__main__":
    run(main, "sasrec", parallel=True)
