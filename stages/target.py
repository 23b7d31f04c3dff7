"""The other data that a trained system is asked about: ingested, filtered and split as the main way's -> data/target/.

Where they come from is params.yaml's `cross`.
"""

from pathlib import Path

import polars as pl

from llmsrec.data.five_core import filter_reviews
from llmsrec.data.split import split_interactions
from llmsrec.errors import DataError
from stages.common import Stage, run
from stages.ingest import ingest

OUT, SOURCE = Path("data/target"), Path("data/filtered/items.parquet")


def main(stage: Stage) -> None:
    """Make them; they must not be what the systems were trained on."""
    data, split, cross = stage.params.data, stage.params.split, stage.params.cross
    ingest(stage, cross, stage.params.sample.model_copy(update={"seed": cross.sample_seed}), OUT / "raw")
    filter_reviews(OUT / "raw", OUT / "filtered", data.core, data.user_fraction, data.seed, data.repeats)
    shares = (split.time.valid, split.time.test) if split.by == "time" else None
    made = split_interactions(OUT / "filtered", OUT / "split", split.negatives, False, split.seed, shares)
    known, asked = (set(_asins(path)) for path in (SOURCE, OUT / "filtered/items.parquet"))
    if known == asked:
        raise DataError(
            f"`cross` in params.yaml names the data that were trained on ({cross.source}, {cross.category}: the same "
            f"{len(asked):,} items); name others there."
        )
    print(
        f"{made['events']['test']:,} users are asked about {len(asked):,} items, of which {len(known & asked):,} were "
        "trained on and count as unknown all the same"
    )


def _asins(items: Path) -> list[str]:
    return pl.read_parquet(items, columns=["parent_asin"])["parent_asin"].to_list()


if __name__ == "__main__":
    run(main, "target", Path("cross"))
