"""Run as a file, in a fresh process, with a bundle's folder: load it with its own code, ask it, print what it took.

python -I probe.py <bundle> <requests>

Nothing of this repository is imported, so what works here works where only the bundle is. Prints a line for each step
that is done, and last one JSON object.
"""

import json
import math
import resource
import sys
import time
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

STARTED = time.perf_counter()
DONE = " [done]"  # ends a line that is not the result
WARM_UP, LENGTH = 3, 10
EVERY_S = 10.0  # s between two lines about one tower
START, DAY = 1_391_040_000_000, 86_400_000  # ms


class Source(SourceFileLoader):
    """Compiles a source file each time: bytecode beside it, which Python trusts, is neither read nor written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)  # type: ignore[return-value]


def only_sources(folder: Path) -> None:
    """From now on import from below `folder` source files alone: no bytecode and no extension modules.

    `sys.pycache_prefix` would hide the bytecode of every other package, too: torch then takes three times as long.
    """

    def finder(path: str) -> FileFinder:
        if not Path(path).resolve().is_relative_to(folder.resolve()):
            raise ImportError(path, "is another finder's")
        return FileFinder(path, (Source, SOURCE_SUFFIXES))

    sys.path_hooks.insert(0, finder)
    sys.path_importer_cache.clear()


def main(folder: Path, requests: int) -> None:
    only_sources(folder / "code")
    sys.path.insert(0, str(folder / "code"))
    import polars as pl

    import llmsrec
    from llmsrec.serving import schema
    from llmsrec.serving.recommender import Recommender

    assert Path(llmsrec.__file__).is_relative_to(folder), f"{llmsrec.__file__} is not the bundle's code"
    recommender = Recommender.load(folder)
    loaded = time.perf_counter() - STARTED
    print(f"loaded in {loaded:.1f} s{DONE}", flush=True)
    config = json.loads((folder / "config.json").read_text())
    asins = pl.read_parquet(folder / "items.parquet")["parent_asin"].to_list()
    asins = asins[: config["shapes"].get("trained")]  # older code: of added items, some towers know nothing
    length = min(LENGTH, len(asins) // 2)

    def ask(tower: str, number: int) -> None:
        history = [asins[(number * length + place) % len(asins)] for place in range(length)]
        events = [{"parent_asin": asin, "timestamp": START + place * DAY} for place, asin in enumerate(history)]
        request = schema.parse([{"history": events, "k": length, "tower": tower}])
        (answer,) = recommender.recommend(request)
        recommended = [item.parent_asin for item in answer.items]
        assert len(set(recommended)) == length and not set(recommended) & set(history), (
            f"{tower}: {recommended} for {history}"
        )
        assert all(math.isfinite(item.score) for item in answer.items), f"{tower}: a score is not finite"
        assert answer.used == length and not answer.unknown and answer.fallback is None, f"{tower}: {answer}"

    latency = {}
    towers = config.get("towers")  # of a recommender by itself
    if towers is None:
        known = [tower for tower in ("teacher", "cf", "llm") if tower in schema.TOWERS]  # older code has no `teacher`
        towers = [tower for tower in known if config["distilled"] or tower != "cf"] + ["blend"] * ("blend" in config)
    for tower in towers:
        times: list[float] = []
        said = time.perf_counter()
        for number in range(WARM_UP + requests):
            start = time.perf_counter()
            ask(tower, number)
            times.append((time.perf_counter() - start) * 1000)
            if time.perf_counter() - said > EVERY_S or number + 1 == WARM_UP + requests:
                said = time.perf_counter()
                print(f"tower {tower}: {number + 1} of {WARM_UP + requests} requests answered{DONE}", flush=True)
        ordered = sorted(times[WARM_UP:])
        latency[tower] = {
            name: ordered[math.ceil(share * requests) - 1] for name, share in (("p50", 0.5), ("p99", 0.99))
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"load_s": loaded, "latency_ms": latency, "peak_mb": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
