"""One thin script per DVC stage, run as `python -m stages.<name>` from the repository's folder."""

import os
import sys
from pathlib import Path

# A `dvc exp run --temp` or `--queue` works on a copy of the repository; it must run that copy's code, not the
# installed package, which points at the folder that `make` ran in.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
# Without it CUDA's matrix products refuse to be deterministic; it has to be there before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
