"""What the training begins from: nothing, or the weights of the registered version in `train.start` -> models/start/.

A stage of its own, so that DVC keeps the weights with the run: it can be repeated where the registry is not.
"""

from pathlib import Path

from llmsrec.registry import start
from stages.common import Stage, run


def main(stage: Stage) -> None:
    start.bring(stage.root, stage.params.train.start, Path("models/start"))


if __name__ == "__main__":
    run(main, "start")
