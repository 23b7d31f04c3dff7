"""The language model: trained on the catalogue (embedded), or pinned by reference -> models/backbone/."""

from pathlib import Path

import polars as pl
import torch

from llmsrec.models import backbone, embedded
from stages.common import Stage, run

FOLDER = Path("models/backbone")


def main(stage: Stage) -> None:
    torch.use_deterministic_algorithms(True)
    settings = stage.params.backbone
    if settings.model == "embedded":
        titles = pl.read_parquet("data/filtered/items.parquet")["title"].to_list()
        embedded.train(titles, settings.embedded, FOLDER)
    else:
        FOLDER.mkdir(parents=True, exist_ok=True)
        backbone.describe(settings.model, settings.revision, stage.root, FOLDER)


if __name__ == "__main__":
    run(main, "backbone")
