"""The titles as the language model reads them, for a teacher that knows more of items than ids -> models/texts/."""

from pathlib import Path
from typing import get_args

import polars as pl
import torch

from llmsrec.engine import backbone
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.files import sha256, write_json
from llmsrec.models.text import kept_vectors
from llmsrec.params import Items
from stages.common import Stage, run

FOLDER, OUT = Path("stages/items"), Path("models/texts")


def main(stage: Stage) -> None:
    torch.use_deterministic_algorithms(True)
    settings = stage.params.backbone
    encoder = backbone.load(Path("models/backbone"), settings.dtype, settings.quantization)
    titles = pl.read_parquet("data/filtered/items.parquet")["title"].to_list()
    kept_vectors.write(OUT, text_vectors(encoder, titles))
    for items in get_args(Items):
        if items != "id":
            write_json(FOLDER / f"{items}.json", {"vectors": sha256(OUT)})


if __name__ == "__main__":
    run(main, "texts", FOLDER)
