"""Interactions to train, valid and test, and the candidates of the sampled protocol."""

from pathlib import Path

from llmsrec.data.split import split_interactions
from stages.common import Stage, run

FILTERED, OUT = Path("data/filtered"), Path("data/split")


def main(stage: Stage) -> None:
    """Split, and print how many events went where."""
    split = stage.params.split
    manifest = split_interactions(FILTERED, OUT, split.negatives, split.shuffle_train, split.seed)
    print(", ".join(f"{count:,} {name}" for name, count in manifest["events"].items()))


if __name__ == "__main__":
    run(main, "split")
