"""The 20 titles that each user of valid and test chooses from -> data/titles/candidates.parquet."""

from functools import partial
from pathlib import Path

import polars as pl

from llmsrec.data import choices, split
from llmsrec.files import read_json, sha256, write_json
from stages.common import Stage, run

FILTERED, SPLIT, OUT = Path("data/filtered"), Path("data/split"), Path("data/titles")


def main(stage: Stage) -> None:
    """Draw, and check what was written as `validate` checks uni99."""
    time = read_json(SPLIT / "manifest.json").get("time")
    cuts = None if time is None else split.Cuts(**time["cuts"])
    titles = choices.Titles.of(pl.read_parquet(FILTERED / "items.parquet", columns=["title"])["title"].to_list())
    path, seed = OUT / "candidates.parquet", stage.params.split.seed
    count = choices.write(path, partial(split.blocks, FILTERED / "interactions.parquet", cuts), titles, seed)
    choices.check(path, FILTERED, SPLIT)
    manifest = {
        "candidates": "19 titles that the user does not know, uniform without repetition, and the positive, shuffled",
        "titles": len(titles.sizes) - 1,
        "rows": count,
        "seed": seed,
        "outputs": {path.name: sha256(path)},
    }
    write_json(OUT / "manifest.json", manifest)
    print(f"{count:,} lists of {choices.COUNT} titles, out of {manifest['titles']:,} distinct ones -> {path}")


if __name__ == "__main__":
    run(main, "titles", Path("baselines"))
