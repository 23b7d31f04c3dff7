"""One thin script per DVC stage, run as `python -m stages.<name>` from the repository's folder."""

import gc
import os
import sys
from pathlib import Path

# What a stage imports stays until its end; to look through it again and again for garbage is a tenth of a start.
COLLECT = gc.get_threshold()
gc.set_threshold(20_000)  # until `common.run`

# A `dvc exp run --temp` or `--queue` works on a copy of the repository; it must run that copy's code, not the
# installed package, which points at the folder that `make` ran in.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
# Without it CUDA's matrix products refuse to be deterministic; it has to be there before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
import llmsrec  # noqa: E402, F401  before torch, for what it sets
