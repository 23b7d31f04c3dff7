"""Interactions to train, valid and test, and the candidates of the sampled protocol."""

from datetime import UTC, datetime
from pathlib import Path

from llmsrec.data.split import split_interactions
from stages.common import Stage, run

FILTERED, OUT = Path("data/filtered"), Path("data/split")


def main(stage: Stage) -> None:
    """Split, and print how many events went where."""
    split = stage.params.split
    shares = (split.time.valid, split.time.test) if split.by == "time" else None
    manifest = split_interactions(FILTERED, OUT, split.negatives, split.shuffle_train, split.seed, shares)
    print(", ".join(f"{count:,} {name}" for name, count in manifest["events"].items()))
    if "time" in manifest:
        for name, day in manifest["time"]["cuts"].items():
            new = {what: manifest["time"][f"new_{what}"][name] for what in ("users", "items")}
            began = datetime.fromtimestamp(day / 1000, UTC).strftime("%Y-%m-%d %H:%M")
            print(
                f"{name} from {began} UTC: {manifest['events'][name]:,} users are asked about, {new['items']:,} of "
                f"them about an item that nobody had in training; {new['users']:,} users are new and left out"
            )


if __name__ == "__main__":
    run(main, "split")
