"""From a gzip file of raw reviews to split data: speed and memory, beside a plain Python loop over rows.

    python benchmarks/data.py                       # 2 million reviews
    python benchmarks/data.py --reviews 20000000    # the loop gets the first 2 million of them

Each step runs in a process of its own, as the stages do; its time includes starting Python, its memory is the peak.
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
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

CORE, NEGATIVES, SEED = 5, 99, 1
STEPS = ("ingest", "filter", "split")
LOOP = 2_000_000  # reviews that the plain loop gets at most
CHUNK = 200_000


def make(folder: Path, reviews: int) -> None:
    """Write Synthetic.jsonl.gz: 0.5 kB a review with its text, few users with many events, ties, repeats."""
    rng = np.random.default_rng(SEED)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 10))) for _ in range(5_000)]
    texts = pl.Series([" ".join(words[int(5_000 * w)] for w in rng.random(45) ** 2) for _ in range(20_000)])
    days = rng.integers(10_957, 19_600, reviews) * 86_400_000
    # Two shares of users, as in the published counts: many with one event or two, few with most of the events.
    users = np.where(rng.random(reviews) < 0.4, rng.integers(0, reviews // 3, reviews), reviews // 3)
    often = users == reviews // 3
    users[often] += (reviews / 20 * rng.random(often.sum()) ** 1.5).astype(int)
    items = (reviews / 30 * rng.random(reviews) ** 3).astype(int)
    with gzip.open(folder / "Synthetic.jsonl.gz", "wb", compresslevel=4) as file:
        for start in range(0, reviews, CHUNK):
            part = slice(start, min(start + CHUNK, reviews))
            size = part.stop - start
            chosen = texts.gather(rng.integers(0, len(texts), size))
            frame = pl.DataFrame({"rating": rng.integers(1, 6, size).astype(float), "title": chosen.str.slice(0, 20)})
            frame = frame.with_columns(
                text=chosen,
                asin=pl.Series(_asins(items[part])),
                parent_asin=pl.Series(_asins(items[part])),
                user_id="AE" + pl.Series(users[part] * 2_654_435_761 % (1 << 40)).cast(pl.String).str.zfill(26),
                timestamp=pl.Series(days[part]),
                helpful_vote=0,
                verified_purchase=True,
            )
            file.write(frame.write_ndjson().encode())
    with gzip.open(folder / "meta_Synthetic.jsonl.gz", "wt", compresslevel=4) as file:
        for asin in _asins(np.arange(reviews // 30 + 1)):
            file.write(json.dumps({"parent_asin": asin, "title": f"Thing &amp; part {asin}"}) + "\n")


def _asins(numbers: np.ndarray) -> list[str]:
    return ("B0" + pl.Series(numbers).cast(pl.String).str.zfill(8)).to_list()


def step(name: str, folder: Path) -> None:
    """One of the three stages, on default settings."""
    from llmsrec.data import five_core, raw, split

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
    child = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return {"seconds": time.perf_counter() - start, **json.loads(child.stdout.splitlines()[-1])}


def main() -> None:
    """Make the file, measure the steps and the loop, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, help="keep the files here; one that is there is used again")
    parser.add_argument("--child", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, folder = arguments.child[0], Path(arguments.child[1])
        if name == "make":
            make(folder, arguments.reviews)
        elif name == "loop":
            loop(folder, arguments.reviews)
        else:
            step(name, folder)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "gigabytes": used.ru_maxrss / 1e6}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        table(arguments.folder or Path(temporary), arguments.reviews)


def table(folder: Path, reviews: int) -> None:
    """Print one line for each step, their sum, the loop and the ratio."""
    folder.mkdir(parents=True, exist_ok=True)
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start"
    print(f"{platform.platform()}, Python {platform.python_version()}, {load}")
    if not (folder / "meta_Synthetic.jsonl.gz").exists():
        measure("--reviews", str(reviews), "--child", "make", str(folder))
    size = (folder / "Synthetic.jsonl.gz").stat().st_size
    print(f"{reviews:,} reviews, {size / 1e9:.2f} GB gzip\n")
    print(f"{'step':<16}{'reviews':>12}{'seconds':>9}{'CPU s':>8}{'reviews/s':>11}{'peak GB':>9}")

    def row(name: str, count: int, used: dict[str, float]) -> float:
        speed = count / used["seconds"]
        print(
            f"{name:<16}{count:>12,}{used['seconds']:>9.1f}{used['cpu']:>8.1f}{speed:>11,.0f}{used['gigabytes']:>9.2f}",
            flush=True,
        )
        return speed

    steps = []
    for name in STEPS:
        steps.append(measure("--child", name, str(folder)))
        row(name, reviews, steps[-1])
    total = {key: (max if key == "gigabytes" else sum)(used[key] for used in steps) for key in steps[0]}
    fast = row("all three", reviews, total)
    limit = min(reviews, LOOP)
    slow = row("plain row loop", limit, measure("--reviews", str(limit), "--child", "loop", str(folder)))
    print(f"\nratio of reviews/s: {fast / slow:.1f}\n")
    for counts in json.loads((folder / "filtered/manifest.json").read_text())["steps"]:
        print("{step:<18}{users:>12,} users{items:>12,} items{events:>12,} events".format(**counts))


if __name__ == "__main__":
    main()
