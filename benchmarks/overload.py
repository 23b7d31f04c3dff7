"""`llmsrec serve` with more calls than it can serve, and its memory over minutes of them.

python -m benchmarks.overload [--bundle models/bundle] [--seconds 3] [--pairs 3] [--towers cf,llm] [--minutes 0]
    [--json FILE]

What it serves at its peak (a closed loop) and with too many calls follow each other, and the ratio of the two counts,
as other programs and the clients themselves share the cores. So does what it serves for each second of processor time
that its processes use: that is free of what the clients use.
"""

import argparse
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.clients import Measured, closed, opened
from benchmarks.service import Running, accounted, bodies, descendants, line, ours, registered, running
from llmsrec.service import memory

WAITING, CROWD = 64, 640  # requests that may wait, which is how many clients make the peak; those that are too many
TIMES = (1.5, 3.0, 10.0)  # the peak, in an open loop
WARM_MINUTES, EVERY_S = 2.0, 5.0  # before memory is looked at, and between two looks


def overload(root: Path, of: list[bytes], tower: str, seconds: float, pairs: int) -> dict[str, Any]:
    """Calls beyond the peak: how much of it is still served, and how soon the others hear 429."""
    options = ["--poll", "3600", "--waiting", str(WAITING), *(["--no-llm"] if tower == "cf" else [])]
    with running(ours(*options), root) as service:
        port = service.port

        def peak() -> Measured:
            return accounted(service.pid, lambda: closed(port, of, WAITING, seconds))

        def over(times: float) -> Callable[[float], Measured]:
            return lambda rate: opened(port, of, times * rate, seconds, CROWD)

        ways = {f"open loop, {times:g} times the peak": over(times) for times in TIMES}
        figures: dict[str, Any] = {f"{tower}/refusal": refusal(service, of, seconds)}
        ways[f"{CROWD} clients, patient"] = lambda _: closed(port, of, CROWD, seconds, patient=True)
        ways[f"{CROWD} clients, at once"] = lambda _: closed(port, of, CROWD, seconds)
        peak()
        for name, way in ways.items():
            both = []
            for _ in range(pairs):
                before = peak()
                both.append((before, accounted(service.pid, partial(way, before.rate))))
            figures[f"{tower}/{name}"] = shown(f"{tower}, {name}", both)
    return figures


def refusal(service: Running, of: list[bytes], seconds: float) -> dict[str, Any]:
    """Processor time of a call in the process that speaks HTTP: served at the peak, refused while nothing is served."""

    def spent(clients: int) -> tuple[Measured, float]:
        measured = accounted(service.pid, partial(closed, service.port, of, clients, seconds))
        return measured, 1e6 * measured.processors[0]

    measured, served = spent(WAITING)
    served /= len(measured.times[200])
    of_worker = 1e6 * max(measured.processors[1:]) / len(measured.times[200])
    workers = descendants(service.pid)[1:]

    def signalled(number: int) -> None:
        for worker in workers:
            os.kill(worker, number)

    signalled(signal.SIGSTOP)
    goes_on = threading.Timer(seconds, signalled, [signal.SIGCONT])
    goes_on.start()
    measured, refused = spent(2 * WAITING)
    goes_on.join()
    refused /= len(measured.times[429])
    line("a call in the HTTP process: served, refused, us", f"{served:.0f}", f"{refused:.0f}")
    of_clients = 1e6 * measured.own / measured.sent
    line("  in its worker; for who sends it, us", f"{of_worker:.0f}", f"{of_clients:.0f}")
    line("  429 where nothing is served: p50, p99 ms", f"{measured.ms(0.5, 429):.1f}", f"{measured.ms(0.99, 429):.1f}")
    return {"served_us": served, "refused_us": refused, "worker_us": of_worker, "clients_us": of_clients}


def shown(name: str, both: list[tuple[Measured, Measured]]) -> dict[str, Any]:
    """Print what pairs of peak and overload say, each figure as its median."""

    def middle(figure: Callable[[Measured, Measured], float]) -> float:
        return statistics.median(figure(peak, over) for peak, over in both)

    goodput = [over.rate / peak.rate for peak, over in both]
    figures = {
        "peak": middle(lambda peak, _: peak.rate),
        "sent": middle(lambda _, over: over.sent / over.seconds),
        "served": middle(lambda _, over: over.rate),
        "goodput": statistics.median(goodput),
        "efficiency": middle(lambda peak, over: over.efficiency / peak.efficiency),
        "cores": middle(lambda _, over: sum(over.processors) / over.seconds),
        "cores_peak": middle(lambda peak, _: sum(peak.processors) / peak.seconds),
        "clients": middle(lambda _, over: over.own / over.seconds),
        "refused_p50_ms": middle(lambda _, over: over.ms(0.5, 429)),
        "refused_p99_ms": middle(lambda _, over: over.ms(0.99, 429)),
        "failed": sum(over.failed for _, over in both),
    }
    line(
        name,
        f"{figures['peak']:,.0f}/s",
        f"{figures['sent']:,.0f}/s",
        f"{figures['served']:,.0f}/s",
        f"{figures['failed']}",
    )
    spread = f"({min(goodput):.2f}-{max(goodput):.2f})"
    line("  of the peak; a processor second", f"{figures['goodput']:.2f}", spread, f"{figures['efficiency']:.2f}")
    cores = f"{figures['cores_peak']:.2f}", f"{figures['cores']:.2f}", f"{figures['clients']:.2f}"
    line("  cores: at the peak, now, clients", *cores)
    line("  429: p50, p99 ms", f"{figures['refused_p50_ms']:.1f}", f"{figures['refused_p99_ms']:.1f}")
    return figures


def level(root: Path, of: list[bytes], minutes: float) -> dict[str, Any]:
    """Memory of all processes while more clients ask than may wait: first and last tenth of the time, and extremes."""
    looks: list[int] = []
    with running(ours("--poll", "3600", "--waiting", str(WAITING)), root) as service:
        measured: list[Measured] = []
        ask = partial(closed, service.port, of, 2 * WAITING, 60 * (minutes + WARM_MINUTES), patient=True)
        clients = threading.Thread(target=lambda: measured.append(ask()))
        clients.start()
        time.sleep(60 * WARM_MINUTES)
        pids = descendants(service.pid)
        for _ in range(max(2, int(60 * minutes / EVERY_S))):
            looks.append(memory.held(pids))
            time.sleep(EVERY_S)
        clients.join()
    tenth = max(1, len(looks) // 10)
    first, last = statistics.mean(looks[:tenth]), statistics.mean(looks[-tenth:])
    figures: dict[str, Any] = {
        "minutes": minutes, "first": first, "last": last, "change": last / first - 1,
        "spread": (max(looks) - min(looks)) / first,
    }  # fmt: skip
    answers = {status: len(times) for status, times in measured[0].times.items()}
    answered = ", ".join(f"{count:,} of {status}" for status, count in sorted(answers.items()))
    line(f"memory over {minutes:g} minutes: first, last MB", f"{first / 2**20:,.1f}", f"{last / 2**20:,.1f}")
    line("  change, most less least", f"{figures['change']:+.2%}", f"{figures['spread']:.2%}")
    print(f"  answers: {answered}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="llmsrec serve with more calls than it can serve.")
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="of peak and overload (default: %(default)s)")
    parser.add_argument("--towers", default="cf,llm", help="of the overload; empty for none (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="for which memory is looked at (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    print(common.machine())
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        with registered(options.bundle, root, 1):
            if options.towers:
                line("", "peak", "sent", "served", "failed")
            for tower in filter(None, options.towers.split(",")):
                figures |= overload(root, bodies(options.bundle, tower), tower, options.seconds, options.pairs)
            if options.minutes:
                mixed = [body for tower in ("cf", "llm") for body in bodies(options.bundle, tower)]
                figures["memory"] = level(root, mixed, options.minutes)
    common.write(options.json, figures)


if __name__ == "__main__":
    main()
