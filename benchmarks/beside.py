"""How much longer torch's threads take beside other work, as libgomp has them spin and as llmsrec does. Run by hand:

    python -m benchmarks.beside             # with nothing else, then beside a busy process for each processor
    python -m benchmarks.beside --busy 1

Some steps of the embedded backbone on made titles, a thread for each processor, each training in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from benchmarks.common import in_turn, ratios, settings, show
from llmsrec.engine import embedded

# What the environment says: nothing, so that llmsrec/__init__.py says it, and what libgomp takes by itself.
SPINS: dict[str, dict[str, str]] = {"llmsrec": {}, "libgomp": {"GOMP_SPINCOUNT": "300000"}}


def train(steps: int) -> None:
    """Print the seconds that the steps take here."""
    chosen = settings().backbone.embedded.model_copy(update={"steps": steps})
    titles = [f"Bottle no {number} of {('rose', 'mint', 'lime')[number % 3]} water" for number in range(500)]
    rng = np.random.default_rng(0)
    tokenizer = embedded.train_tokenizer(titles, chosen.vocab_size, rng)
    began = time.perf_counter()
    embedded.train_model(titles, tokenizer, chosen, rng)
    print(f"seconds {time.perf_counter() - began}")


def seconds(spin: dict[str, str], steps: int) -> float:
    """The same in a process of its own, which imports llmsrec before torch, as stages and commands do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = f"import llmsrec; from benchmarks.beside import train; train({steps})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | spin, capture_output=True, text=True, check=True
    )
    return float(done.stdout.rpartition("seconds")[2])


@contextmanager
def beside(count: int) -> Iterator[None]:
    """So many busy processes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=len(os.sched_getaffinity(0)), help="processes beside it")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    for count in (0, chosen.busy):
        print(f"\n{chosen.steps} steps beside {count} busy processes, seconds", flush=True)
        with beside(count):
            figures = in_turn(
                {name: partial(seconds, spin, chosen.steps) for name, spin in SPINS.items()}, chosen.repeats
            )
        show(figures)
        print(
            "libgomp / llmsrec:",
            ", ".join(f"{ratio:.2f}" for ratio in ratios(figures, "libgomp", "llmsrec")),
            flush=True,
        )


if __name__ == "__main__":
    main()
