"""A picture of a service's `/metrics` over a while: what a dashboard would show, without one.

python -m docs.dashboard [http://127.0.0.1:8080/metrics] [--seconds 60] [--to docs/images/service.png]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
Scrape = dict[str, dict[Labels, float]]  # name of a series -> labels -> value
EVERY_S = 1.0


def scraped(address: str) -> Scrape:
    """All figures of one look."""
    made: Scrape = defaultdict(dict)
    with urlopen(address, timeout=30) as response:
        for family in text_string_to_metric_families(response.read().decode()):
            for sample in family.samples:
                made[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return made


def summed(scrape: Scrape, name: str, by: str) -> dict[str, float]:
    """A series' figures, added up over all labels but one."""
    made: dict[str, float] = defaultdict(float)
    for labels, value in scrape.get(name, {}).items():
        made[dict(labels)[by]] += value
    return made


def quantile(before: Scrape, after: Scrape, name: str, share: float, **only: str) -> float:
    """A percentile of what a histogram counted between two looks: the upper end of the bucket in which it lies."""
    counts: dict[float, float] = defaultdict(float)
    for labels, value in after.get(f"{name}_bucket", {}).items():
        if only.items() <= dict(labels).items():
            counts[float(dict(labels)["le"])] += value - before.get(f"{name}_bucket", {}).get(labels, 0.0)
    whole = counts.get(float("inf"), 0.0)
    return (
        next((end for end in sorted(counts) if counts[end] >= share * whole), float("nan")) if whole else float("nan")
    )


def draw(looks: list[tuple[float, Scrape]], path: Path) -> None:
    """Six panels over time.

    Args:
        looks: seconds since the first, and what was seen then; two at least.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pairs = list(pairwise(looks))
    times = [now for _, (now, _) in pairs]

    def rates(name: str, by: str) -> dict[str, list[float]]:
        names = sorted({key for _, look in looks for key in summed(look, name, by)})
        return {
            key: [
                (summed(new, name, by)[key] - summed(old, name, by)[key]) / (now - then)
                for (then, old), (now, new) in pairs
            ]
            for key in names
        }

    def gauges(name: str, by: str, scale: float = 1.0) -> dict[str, list[float]]:
        names = sorted({key for _, look in looks for key in summed(look, name, by)})
        return {key: [summed(look, name, by)[key] * scale for _, (_, look) in pairs] for key in names}

    def latency() -> dict[str, list[float]]:
        towers = sorted({dict(labels)["tower"] for labels in looks[-1][1].get("llmsrec_call_seconds_count", {})})
        return {
            f"{tower}, p{100 * share:g}": [
                1000 * quantile(old, new, "llmsrec_call_seconds", share, tower=tower) for (_, old), (_, new) in pairs
            ]
            for tower in towers
            for share in (0.5, 0.99)
        }

    def batches() -> dict[str, list[float]]:
        sums = rates("llmsrec_batch_requests_sum", "worker")
        counts = rates("llmsrec_batch_requests_count", "worker")
        return {
            key: [total / count if count else float("nan") for total, count in zip(sums[key], counts[key], strict=True)]
            for key in sums
        }

    panels: list[tuple[str, Callable[[], dict[str, list[float]]]]] = [
        ("calls a second, by status", lambda: rates("llmsrec_calls_total", "status")),
        ("latency of a call (ms, upper end of its bucket)", latency),
        ("requests that wait, by worker", lambda: gauges("llmsrec_waiting_requests", "worker")),
        ("requests of a batch, by worker", batches),
        ("memory (MB), by process", lambda: gauges("llmsrec_resident_bytes", "process", 1 / 2**20)),
        ("seconds of computing a second, by worker", lambda: rates("llmsrec_batch_seconds_sum", "worker")),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(13, 6), layout="constrained")
    for axis, (title, lines) in zip(axes.ravel(), panels, strict=True):
        for name, values in lines().items():
            axis.plot(times, values, label=name)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("seconds")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="A picture of a service's /metrics over a while.")
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:8080/metrics")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--to", type=Path, default=Path("docs/images/service.png"))
    options = parser.parse_args()
    looks: list[tuple[float, Scrape]] = []
    began = time.monotonic()
    while time.monotonic() - began <= options.seconds or len(looks) < 2:
        look = scraped(options.address)
        looks.append((time.monotonic() - began, look))
        time.sleep(EVERY_S)
    draw(looks, options.to)
    print(f"{options.to}: {len(looks)} looks at {options.address}")


if __name__ == "__main__":
    main()
