"""What `/metrics` tells: counters, times and sizes in Prometheus' text format."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

disable_created_metrics()  # a second figure for each, of when it was made

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32)
COSTS = (32, 128, 512, 1024, 2048, 4096, 8192)
TOWERS = ("llm", "cf", "teacher", "blend", "mixed")
OfBatch = Callable[[int, int, float, dict[str, int] | None], None]


class Metrics:
    """One service's figures. `tower` is that of a call's requests, or `mixed`, or `none` where it could not be read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def count(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"llmsrec_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"llmsrec_{name}", text, labels, registry=self.registry)

        def spread(name: str, text: str, buckets: tuple[float, ...], label: str) -> Histogram:
            return Histogram(f"llmsrec_{name}", text, [label], buckets=buckets, registry=self.registry)

        self.calls = count("calls", "Calls answered.", "tower", "status")
        self.requests = count("requests", "Requests in calls that were answered with 200.", "tower")
        self.seconds = spread("call_seconds", "From a call's headers to its answer.", SECONDS, "tower")
        self.queued = spread("queued_seconds", "What a call waited for its worker.", SECONDS, "tower")
        self.batch = spread("batch_requests", "Requests that went through a worker at once.", SIZES, "worker")
        self.cost = spread("batch_cost", "Tokens of a batch of `llm`; requests of others.", COSTS, "worker")
        self.computed = spread("batch_seconds", "What a batch took.", SECONDS, "worker")
        self.prompts = count("prompts", "Users' prompts that `llm` read, by whether a beginning was kept.", "beginning")
        self.spared = count("kept_positions", "Positions of prompts that were kept, and not computed again.")
        self.kept = gauge("kept_bytes", "Keys and values of users' prompts that are kept.")
        self.restarts = count(
            "worker_restarts", "Workers that died or hung and were started again.", "worker", "reason"
        )
        self.waiting = gauge("waiting_requests", "Requests that are accepted and not answered.", "worker")
        self.fallbacks = count("fallbacks", "Requests answered with the popular items.")
        self.unknown = count("unknown_items", "Items of histories that the catalogue does not have.")
        self.memory = gauge("resident_bytes", "Memory of a process.", "process")
        self.model = gauge("model", "1 for the version that answers.", "model", "version", "alias", "bundle", "runtime")
        self.ready = gauge("ready", "1 while calls are answered.")
        self.swaps = count("swaps", "Versions that took over, or were refused.", "outcome")
        self.refused = gauge("refused", "1 for the version that the alias names and that may not serve.", "version")
        self.registry_up = gauge("registry_up", "1 if the registry answered when it was asked last.")
        self._unread: dict[str, Counter] = {}  # its own, as looking a label up takes longer than counting
        for outcome in ("taken", "refused"):
            self.swaps.labels(outcome)

    def of_batches(self, worker: str) -> OfBatch:
        """What is told of each batch of a worker: requests, cost, seconds, what was kept of prompts, if anything is."""
        rows, cost, seconds = (metric.labels(worker) for metric in (self.batch, self.cost, self.computed))

        def observe(count: int, costs: int, took: float, kept: dict[str, int] | None) -> None:
            rows.observe(count)
            cost.observe(costs)
            seconds.observe(took)
            if kept:
                self.prompts.labels("kept").inc(kept["found"])
                self.prompts.labels("new").inc(kept["prompts"] - kept["found"])
                self.spared.inc(kept["positions"])
                self.kept.set(kept["bytes"])

        return observe

    def of_restarts(self, worker: str) -> Callable[[str], object]:
        """What is told why a worker is started again."""
        reasons = {reason: self.restarts.labels(worker, reason) for reason in ("died", "hung")}
        return lambda reason: reasons[reason].inc()

    def answered(self, tower: str, status: int, requests: int, seconds: float) -> None:
        """One call."""
        self.calls.labels(tower, str(status)).inc()
        self.seconds.labels(tower).observe(seconds)
        if status == 200:
            self.requests.labels(tower).inc(requests)

    def refused_unread(self, tower: str) -> None:
        """A call that was told 429 before it was read: it took no time that would say anything of the others."""
        child = self._unread.get(tower)
        if child is None:
            child = self._unread[tower] = self.calls.labels(tower, "429")
        child.inc()

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)


def tower_label(towers: Sequence[object]) -> str:
    """The towers of a call as a label: one of few values, whatever was sent."""
    if not towers:
        return "none"
    first = towers[0]
    if any(tower != first for tower in towers):
        return "mixed" if all(tower in TOWERS for tower in towers) else "none"
    return str(first) if first in TOWERS else "none"
