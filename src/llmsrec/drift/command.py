"""The command `llmsrec drift`: its arguments, and what it does."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from llmsrec.errors import DataError, RequestError

if TYPE_CHECKING:
    from llmsrec.drift.report import Comparison
    from llmsrec.serving.bundle import Bundle
    from llmsrec.serving.towers import History

DRIFT = 3  # exit status; 1 is an error, so a scheduler can tell the two apart
FEWEST = 50  # users; of fewer, only the crudest drift could be told from chance
EVENTS = 400_000  # of data, about: of more, a share of the users is looked at


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Give the parser what it takes."""
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--requests", type=Path, metavar="LOG", help="JSON lines of requests (docs/monitoring.md)")
    what.add_argument("--data", type=Path, metavar="FOLDER", help="users of data, such as data/filtered")
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--model",
        default="staging",
        help="a version: shop/5, shop@staging, or 5 or staging of `registry.model` (default: %(default)s)",
    )
    source.add_argument("--bundle", type=Path, help="folder of a bundle, such as models/bundle; logs nothing to MLflow")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="write drift.md, drift.json and drift.png there")


def run(root: Path, options: argparse.Namespace) -> int:
    """Compare, print and keep the comparison.

    Returns:
        0 without drift, 3 with it.

    Raises:
        RequestError, DataError, ParamsError: exit status 1.
    """
    from llmsrec import params
    from llmsrec.drift import figures, reference, report
    from llmsrec.scoring.command import opened

    limits = params.load(root / "params.yaml").drift
    bundle, version = opened(root, options.model, options.bundle)
    known = reference.read(bundle)
    histories = _histories(bundle, options.requests, options.data)
    if len(histories) < FEWEST:
        raise DataError(
            f"{options.requests or options.data} holds {len(histories)} users, and drift asks for {FEWEST} at least; "
            "log more requests, or a larger share of them."
        )
    seen = reference.measure(bundle, histories, reference.answering(bundle))
    comparison = report.Comparison(
        version, str(options.requests or options.data), known, seen, figures.compare(known, seen, limits)
    )
    print(comparison.text())
    _keep(root, comparison, options.out, log=options.bundle is None)
    return DRIFT if comparison.drifts else 0


def _histories(bundle: "Bundle", log: Path | None, data: Path | None) -> list["History"]:
    from llmsrec.drift import requests
    from llmsrec.scoring import histories
    from llmsrec.serving.recommender import Recommender

    read = Recommender(bundle.as_trained()).history  # drift is from the items of the training
    if log:
        return [read(*history) for history in requests.read(log)]
    if data is None or not data.is_dir():
        raise RequestError(f"--data {data} is not a folder; it names one like data/filtered.")
    source = histories.of_data(data)
    with tempfile.TemporaryDirectory() as folder:
        buckets = histories.spread(source, Path(folder), shard=(1, max(1, -(-source.events // EVENTS))))
        frames = [histories.users_of(Path(folder), bucket) for bucket in range(len(buckets))]
    return [read(asins, times) for frame in frames for _, asins, times in frame.rows()]


def _keep(root: Path, comparison: "Comparison", out: Path | None, log: bool) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        folder = out or Path(elsewhere)
        comparison.write(folder)
        if out:
            print(f"\nwritten to {out}")
        if log:
            from llmsrec.registry import drift_run

            run_id = drift_run.log(root, comparison.version, comparison.metrics(), comparison.drifts, folder)
            print(f"MLflow run {run_id}")
