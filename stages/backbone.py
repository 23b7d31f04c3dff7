"""The language model: trained on the catalogue (embedded), from a GGUF file, or by reference -> models/backbone/."""

from pathlib import Path

import polars as pl
import torch

from llmsrec.engine import backbone, backbone_files, embedded, gguf
from llmsrec.training import start
from stages.common import Stage, run

FOLDER = Path("models/backbone")


def main(stage: Stage) -> None:
    torch.use_deterministic_algorithms(True)
    settings = stage.params.backbone
    begin = start.read(Path("models/start"))
    if settings.model == "embedded" and begin:
        begin.check(start.shape_of("backbone.embedded", settings.embedded, {"hidden_size", "layers", "heads"}))
        begin.copy_backbone(FOLDER)
    elif settings.model == "embedded":
        titles = pl.read_parquet("data/filtered/items.parquet")["title"].to_list()
        embedded.train(titles, settings.embedded, FOLDER)
    elif gguf.is_gguf(settings.model):
        gguf.convert(settings.model, stage.root, FOLDER)
        backbone.load(FOLDER)
    else:
        FOLDER.mkdir(parents=True, exist_ok=True)
        backbone.describe(settings.model, settings.revision, stage.root, FOLDER)
    if begin:
        begin.check_backbone(backbone_files.identity(FOLDER), settings.model)


if __name__ == "__main__":
    run(main, "backbone")
