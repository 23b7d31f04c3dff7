"""From a gzip file of raw reviews to split data: speed and memory, beside a plain Python loop over rows.

    python -m benchmarks.data                               # 2 million reviews
    python -m benchmarks.data --events 20_000_000           # the loop gets the first 2 million of them
    python -m benchmarks.data --events 20_000_000 100_000_000 --first filter    # from data/raw on, without the loop

Each step runs in a process of its own, as the stages do; its time includes starting Python, its memory is the peak. Of
several sizes the line through the last two goes on to the 571 million reviews of Amazon 2023: CPU seconds and memory.
"""

import argparse
import gzip
import itertools
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from isal import igzip

from llmsrec.data import five_core, raw, split
from llmsrec.data.layouts import REVIEWS

CORE, NEGATIVES, SEED = 5, 99, 1
STEPS = ("ingest", "filter", "split")
LOOP = 2_000_000  # reviews that the plain loop gets at most
PARTITION = 200_000  # reviews that are made at once
ITEM_EVENTS = 12  # events for each item
AMAZON = 571_000_000  # reviews of Amazon 2023


def make(folder: Path, events: int, first: str) -> None:
    """Write what the first step reads, partition by partition: raw files, or data/raw where that is `filter`.

    A raw review has 0.5 kB with its text. As Amazon 2023 has 48 million items of 571 million reviews, there is one for
    every 12 events, and a user for every three or four: more than there.
    """
    asins = pl.Series(_asins(np.arange(events // ITEM_EVENTS + 1)))
    titles = pl.format("Thing &amp; part {}", "parent_asin")
    if first == "filter":
        (folder / "raw").mkdir(exist_ok=True)
        catalogue = pl.DataFrame({"parent_asin": asins}).with_columns(title=titles, store=pl.lit("Shop"))
        catalogue = catalogue.with_columns(categories=pl.lit([], pl.List(pl.String)))
        catalogue.write_parquet(folder / "raw/items.parquet")
        with pq.ParquetWriter(folder / "raw/reviews.parquet", REVIEWS.schema, compression="zstd") as writer:
            for partition in partitions(events):
                writer.write_table(partition.to_arrow().cast(REVIEWS.schema))
        return
    with igzip.open(folder / "meta_Synthetic.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(pl.DataFrame({"parent_asin": asins}).with_columns(title=titles).write_ndjson().encode())
    rng = np.random.default_rng(SEED)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 10))) for _ in range(5_000)]
    texts = pl.Series([" ".join(words[int(5_000 * w)] for w in rng.random(45) ** 2) for _ in range(20_000)])
    with igzip.open(folder / "Synthetic.jsonl.gz", "wb", compresslevel=1) as file:
        for partition in partitions(events):
            chosen = texts.gather(rng.integers(0, len(texts), partition.height))
            partition = partition.with_columns(
                title=chosen.str.slice(0, 20),
                text=chosen,
                asin="parent_asin",
                helpful_vote=0,
                verified_purchase=True,
            )
            file.write(partition.write_ndjson().encode())


def partitions(events: int) -> Iterator[pl.DataFrame]:
    """`user_id, parent_asin, rating, timestamp` of all events, `PARTITION` at a time, each from a seed of its own.

    Two shares of users, as in the published counts: many with an event or two, few with most of the events. An item's
    popularity falls with the power 2/3 of its rank. Times are whole days, so there are ties, and some pairs repeat.
    """
    for number, start in enumerate(range(0, events, PARTITION)):
        size, rng = min(PARTITION, events - start), np.random.default_rng([SEED, number])
        rare = rng.random(size) < 0.4
        often = events // 3 + (events / 20 * rng.random(size) ** 1.5).astype(int)
        users = np.where(rare, rng.integers(0, events // 3, size), often)
        yield pl.DataFrame(
            {
                "user_id": "AE" + pl.Series(users * 2_654_435_761 % (1 << 40)).cast(pl.String).str.zfill(26),
                "parent_asin": _asins((events / ITEM_EVENTS * rng.random(size) ** 3).astype(int)),
                "rating": pl.Series(rng.integers(1, 6, size), dtype=pl.Float32),
                "timestamp": rng.integers(10_957, 19_600, size) * 86_400_000,
            }
        )


def _asins(numbers: np.ndarray) -> pl.Series:
    return "B0" + pl.Series(numbers).cast(pl.String).str.zfill(8)


def step(name: str, folder: Path) -> None:
    """One of the three stages, on default settings."""
    if name == "ingest":
        raw.ingest(*raw.find(folder, "Synthetic"), folder / "raw", {})
    elif name == "filter":
        five_core.filter_reviews(folder / "raw", folder / "filtered", CORE, 1.0, SEED)
    else:
        split.split_interactions(folder / "filtered", folder / "split", NEGATIVES, False, SEED)


def loop(folder: Path, limit: int) -> None:
    """The same job as a loop over rows; it is spared writing parquet files."""
    rows, seen = [], set()
    with gzip.open(folder / "Synthetic.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in itertools.islice(file, limit):
            review = json.loads(line)
            rows.append((review["user_id"], review["parent_asin"], review["timestamp"]))
    rows.sort(key=lambda row: row[2])
    events = []
    for user, item, timestamp in rows:
        if (user, item) not in seen:
            seen.add((user, item))
            events.append((user, item, timestamp))
    while True:
        users, items = Counter(e[0] for e in events), Counter(e[1] for e in events)
        left = [e for e in events if users[e[0]] >= CORE and items[e[1]] >= CORE]
        if len(left) == len(events):
            break
        events = left
    user_ids = {user: number for number, user in enumerate(sorted(users), start=1)}
    item_ids = {item: number for number, item in enumerate(sorted(items), start=1)}
    histories = defaultdict(list)
    for user, item, timestamp in events:
        histories[user_ids[user]].append((item_ids[item], timestamp))
    split: dict[str, list[Any]] = {"train": [], "valid": [], "test": []}
    candidates, rng = [], random.Random(SEED)
    for user, history in histories.items():
        split["train"] += [(user, *event) for event in history[:-2]]
        owned = {item for item, _ in history}
        for name, (item, timestamp) in (("valid", history[-2]), ("test", history[-1])):
            split[name].append((user, item, timestamp))
            negatives: set[int] = set()
            while len(negatives) < NEGATIVES:
                drawn = rng.randint(1, len(item_ids))
                if drawn not in owned:
                    negatives.add(drawn)
            candidates.append((user, name, item, sorted(negatives)))
    print(json.dumps({"events": len(events)}))


def measure(*arguments: str) -> dict[str, float]:
    """Seconds, CPU seconds and peak GB of this file in a process of its own."""
    start = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.data", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return {"seconds": time.perf_counter() - start, **json.loads(child.stdout.splitlines()[-1])}


def main() -> None:
    """Make the files of each size, measure the steps and the loop, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[2_000_000], help="reviews")
    parser.add_argument("--first", choices=("ingest", "filter"), default="ingest", help="the first step")
    parser.add_argument("--folder", type=Path, help="keep the files here; those that are there are used again")
    parser.add_argument("--child", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, folder = arguments.child[0], Path(arguments.child[1])
        if name == "make":
            make(folder, arguments.events[0], arguments.first)
        elif name == "loop":
            loop(folder, arguments.events[0])
        else:
            step(name, folder)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "gigabytes": used.ru_maxrss / 1e6}))
        return
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start"
    print(f"{platform.platform()}, Python {platform.python_version()}, {load}")
    measured = []
    for events in arguments.events:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.folder / str(events) if arguments.folder else Path(temporary)
            measured.append(table(folder, events, STEPS[STEPS.index(arguments.first) :]))
    if len(measured) > 1:
        onward(arguments.events[-2:], measured[-2:])


def table(folder: Path, events: int, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Print one line for each step, their sum, and, after all three, the loop and the ratio; return the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / ("meta_Synthetic.jsonl.gz" if "ingest" in names else "raw/items.parquet")
    if not source.exists():
        measure("--events", str(events), "--first", names[0], "--child", "make", str(folder))
    size = (folder / ("Synthetic.jsonl.gz" if "ingest" in names else "raw/reviews.parquet")).stat().st_size
    print(f"\n{events:,} reviews, {size / 1e9:.2f} GB {'gzip' if 'ingest' in names else 'parquet'}\n")
    print(f"{'step':<16}{'reviews':>12}{'seconds':>9}{'CPU s':>8}{'reviews/s':>11}{'/CPU s':>11}{'peak GB':>9}")

    def row(name: str, count: int, used: dict[str, float]) -> float:
        speed = count / used["seconds"]
        print(
            f"{name:<16}{count:>12,}{used['seconds']:>9.1f}{used['cpu']:>8.1f}{speed:>11,.0f}"
            f"{count / used['cpu']:>11,.0f}{used['gigabytes']:>9.2f}",
            flush=True,
        )
        return speed

    steps = {}
    for name in names:
        steps[name] = measure("--child", name, str(folder))
        row(name, events, steps[name])
    figures = next(iter(steps.values()))
    total = {key: (max if key == "gigabytes" else sum)(used[key] for used in steps.values()) for key in figures}
    fast = row("together", events, total)
    if "ingest" in names:
        limit = min(events, LOOP)
        slow = row("plain row loop", limit, measure("--events", str(limit), "--child", "loop", str(folder)))
        print(f"\nratio of reviews/s: {fast / slow:.1f}")
    print()
    for counts in json.loads((folder / "filtered/manifest.json").read_text())["steps"]:
        print("{step:<18}{users:>12,} users{items:>12,} items{events:>12,} events".format(**counts))
    return steps


def onward(sizes: list[int], measured: list[dict[str, dict[str, float]]]) -> None:
    """Print, for each step, where the line through two sizes comes to at `AMAZON` reviews."""
    print(f"\n{AMAZON:,} reviews, by the line through {sizes[0]:,} and {sizes[1]:,}\n")
    print(f"{'step':<16}{'CPU s':>8}{'peak GB':>9}")
    for name in measured[0]:
        small, large = (of[name] for of in measured)
        share = (AMAZON - sizes[1]) / (sizes[1] - sizes[0])
        cpu, memory = (large[key] + share * (large[key] - small[key]) for key in ("cpu", "gigabytes"))
        print(f"{name:<16}{cpu:>8.0f}{memory:>9.1f}")


if __name__ == "__main__":
    main()
