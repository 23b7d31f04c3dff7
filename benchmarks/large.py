"""A training step with a language model that is large for a processor, beside the plain form (benchmarks/plain.py).

    python -m benchmarks.large --data data --backbone models/backbone       # such as SmolLM2-135M and Beauty's titles

Users a second (`last`) and targets a second (`all`) in float32 and bfloat16, by processor time, as a machine with other
work gives its sides unequal shares; the sides take turns. Each user has four candidates of their own, in batches of
`--batch`; what is kept of item prompts is there before the first timing. GFlop/s are those of the products and of the
attention (`benchmarks/flops.py`) that our step runs, beside a large product's of the same type.
"""

import gc
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import common, flops
from benchmarks.common import Figures
from benchmarks.step import BATCH, Sides, rate, where_time_goes
from llmsrec.params import Prefixes

KEPT = Prefixes(memory=32.0, disk=0.0)  # GiB; of this only what is asked for is touched
UNITS = {"last": "users", "all": "targets"}


def compare(sides: Sides, unit: str, dtype: torch.dtype, repeats: int) -> Figures:
    """Rates of both forms, their ratio, and how much of a large product's rate our step has."""
    targets = [sides.ours()]  # the first time fills what is kept of item prompts
    work = flops.counted(sides.ours)
    calls = {name: rate(call, time.process_time) for name, call in (("ours", sides.ours), ("plain", sides.theirs))}
    figures = common.in_turn(
        {f"{name}, {unit}/s": call for name, call in calls.items()}
        | {"a large product, GFlop/s": partial(common.matrix_rate, dtype=dtype, clock=time.process_time)},
        repeats,
    )
    figures["ours / plain"] = common.ratios(figures, f"ours, {unit}/s", f"plain, {unit}/s")
    figures["ours, GFlop/s"] = [of * work / targets[0] / 1e9 for of in figures[f"ours, {unit}/s"]]
    figures["ours / a large product"] = common.ratios(figures, "ours, GFlop/s", "a large product, GFlop/s")
    return figures


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--backbone", type=Path, required=True, help="a model folder of the backbone stage")
    parser.add_argument("--batch", type=int, default=BATCH, help="users a step (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=1, help="steps that are timed (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (default: %(default)s)")
    parser.add_argument("--targets", nargs="+", choices=UNITS, default=[*UNITS])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--profile", action="store_true", help="also where the time of our steps goes")
    chosen = parser.parse_args()
    print(common.machine(), flush=True)
    results = {}
    with common.data(chosen) as folder, tempfile.TemporaryDirectory() as temporary:
        for targets, dtype in ((targets, dtype) for dtype in chosen.dtype for targets in chosen.targets):
            place = folder, chosen.backbone, targets, chosen.batches, Path(temporary), chosen.batch
            sides = Sides(*place, dtype=dtype, prefixes=KEPT)
            title = f"targets: {targets}, {dtype}"
            print(f"\n{title}", flush=True)
            results[title] = compare(sides, UNITS[targets], getattr(torch, dtype), chosen.repeats)
            common.show(results[title])
            if chosen.profile:
                for name, share in where_time_goes(sides.ours).items():
                    print(f"{name:<44}{share:>12.1f} %", flush=True)
            del sides
            gc.collect()
    common.write(chosen.json, results)


if __name__ == "__main__":
    main()
