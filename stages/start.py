"""What the training begins from: nothing, or the weights of the registered version in `train.start` -> models/start/.

A stage of its own, so that DVC keeps the weights with the run: it can be repeated where the registry is not.
"""

import shutil
from pathlib import Path

from llmsrec.files import write_json
from llmsrec.params import FRESH
from stages.common import Stage, run

OUT = Path("models/start")


def main(stage: Stage) -> None:
    name = stage.params.train.start
    if name in FRESH:
        shutil.rmtree(OUT, ignore_errors=True)
        write_json(OUT / "start.json", {"version": None})
    else:
        from llmsrec.registry import start  # MLflow and torch take seconds to import

        start.bring(stage.root, name, OUT)


if __name__ == "__main__":
    run(main, "start")
