"""`llmsrec evaluate`: a version asked about test users of data at hand; the figures of its towers, kept with its run.

Metrics are called `on/<data>/<protocol>/<metric>/tower_<tower>`, where <data> are eight digits of a digest over users
and candidates: two versions have a metric of one name where they were asked the same. `evaluations/<data>.json` among
the run's artifacts holds them with intervals and counts.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from llmsrec import params as parameters
from llmsrec.errors import DataError
from llmsrec.evaluation import towers
from llmsrec.evaluation.metrics import per_user
from llmsrec.evaluation.names import HEADLINE, PROTOCOLS, meaning
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.evaluation.tables import Table, text
from llmsrec.redaction import redact
from llmsrec.registry import tracking, versions
from llmsrec.registry.verified import verified
from llmsrec.scoring import held_out, held_out_data
from llmsrec.scoring.held_out import HeldOut
from llmsrec.scoring.held_out_data import HeldOutData
from llmsrec.serving.bundle import Bundle

WORKSPACE = "workspace"
DIGITS = 8  # of the digest, in names


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        version: such as `shop/3`.
        data: the test users.
        own: whether they are those that the version was tested on when it was trained.
        asked: tower -> how it ranked.
        scores: tower -> protocol -> metric -> mean, low, high.
    """

    version: str
    data: HeldOutData
    own: bool
    asked: dict[str, HeldOut]
    scores: dict[str, dict[str, dict[str, dict[str, float]]]]

    @property
    def name(self) -> str:
        """Of the data, in metrics and files."""
        return self.data.digest[:DIGITS]

    def counts(self) -> dict[str, int]:
        """Users, and what of their data the version does not know; the same for all towers."""
        asked = next(iter(self.asked.values()))
        return {
            "users": len(self.data.users),
            "unknown_targets": asked.unknown_targets,
            "events": asked.events,
            "unknown_events": asked.unknown_events,
            "popular": asked.popular,
        }

    def metrics(self) -> dict[str, float]:
        """By the names that MLflow gets."""
        named = {
            f"on/{self.name}/{protocol}/{metric}/{towers.group(tower)}": score["mean"]
            for tower, protocols in self.scores.items()
            for protocol, metrics in protocols.items()
            for metric, score in metrics.items()
        }
        return named | {f"on/{self.name}/{what}": float(count) for what, count in self.counts().items()}

    def text(self) -> str:
        """For a terminal."""
        counts, negatives = self.counts(), self.data.negatives
        protocols = [name for name in PROTOCOLS if name in next(iter(self.scores.values()))]
        header = ("tower", *(f"{name} {what}" for name in protocols for what in ("NDCG@10", "interval", "HR@10")))
        rows: list[tuple[str, ...]] = []
        for tower, of in self.scores.items():
            cells: list[str] = []
            for protocol in protocols:
                ndcg, hr = (of[protocol][metric] for metric in HEADLINE)
                cells += [f"{ndcg['mean']:.4f}", f"{ndcg['low']:.4f} .. {ndcg['high']:.4f}", f"{hr['mean']:.4f}"]
            rows.append((tower, *cells))
        lines = [
            f"{counts['unknown_targets']:,} of {counts['users']:,} last items are unknown to it: each is a miss",
            f"{counts['unknown_events']:,} of {counts['events']:,} events of the histories are, and are skipped; "
            f"{counts['popular']:,} users are ranked by popularity",
            f"{meaning('uni99', negatives)}; {meaning('full', negatives)} of its catalogue"
            if negatives
            else f"uni99 is left out: there is no split/{held_out_data.CANDIDATES} beside the data",
            "these are its own test data"
            if self.own
            else "these are other data than it was trained on; a last item that it was trained on flatters it",
        ]
        title = f"{self.version} on {self.data.folder} ({self.name})"
        return text([Table(title, header, rows, "\n".join(f"  {line}" for line in lines))])


def evaluate(root: Path, wanted: str, on: str = WORKSPACE, model: str | None = None) -> Evaluation:
    """Ask all towers of a version, print the figures and log them to the version's run.

    Args:
        wanted: a version's name (`versions`).
        on: `workspace`, the data of `root`; or a folder like data or data/filtered.
        model: the registered model, if `wanted` does not say.

    Raises:
        RequestError: no such version or folder, or a tower that cannot be asked here.
        DataError: no registry, no test users there, or files of the version that are missing or altered.
    """
    params = parameters.load(root / "params.yaml")
    name, which = versions.of(wanted, model, params.registry.model)
    folder = root / "data" if on == WORKSPACE else Path(on)
    with tracking.existing(root, "What was measured is printed above; run the command again") as client:
        version = versions.find(client, name, which)
        if not version.run_id:
            raise DataError(
                f"{name} version {version.version} has no run to keep the figures with; evaluate a version that "
                "`dvc repro` registered."
            )
        data = held_out_data.read(folder, params.evaluate.test_users, params.evaluate.seed)
        print(f"{name} version {version.version}: {len(data.users):,} test users of {folder}", flush=True)
        bundle = Bundle.open(verified(client, version) / "artifacts/bundle")
        measured = measure(
            f"{name}/{version.version}", bundle, data, Bootstrap(params.evaluate.bootstrap, params.evaluate.seed)
        )
        print(f"\n{measured.text()}", flush=True)
        _log(client, str(version.run_id), measured)
    print(f"\nMLflow run {version.run_id}: on/{measured.name}/...", flush=True)
    return measured


def measure(version: str, bundle: Bundle, data: HeldOutData, bootstrap: Bootstrap) -> Evaluation:
    """The figures of all towers that a bundle has, one after the other."""
    asked = {}
    for tower in bundle.towers:
        print(f"tower {tower}", flush=True)
        asked[tower] = held_out.rank(bundle, data.users, tower)
    scores = {
        tower: {
            protocol: {metric: bootstrap.mean(per_user(ranks, metric)) for metric in HEADLINE}
            for protocol, ranks in of.ranks.items()
        }
        for tower, of in asked.items()
    }
    return Evaluation(version, data, bundle.config["data"].get("filtered") == data.filtered, asked, scores)


def _log(client: MlflowClient, run_id: str, measured: Evaluation) -> None:
    """Keep the figures; measured again, a metric gets one more point and the file is replaced."""
    now = int(time.time() * 1000)
    about: dict[str, Any] = {
        "version": measured.version,
        "data": redact(str(measured.data.folder)),
        "digest": measured.data.digest,
        "own_test_data": measured.own,
        "negatives": measured.data.negatives,
        "counts": measured.counts(),
        "towers": measured.scores,
    }
    client.log_text(run_id, json.dumps(about, indent=2, sort_keys=True) + "\n", f"evaluations/{measured.name}.json")
    points = [Metric(key, value, now, 0) for key, value in measured.metrics().items()]
    client.log_batch(run_id, metrics=points, tags=[RunTag(f"evaluated.{measured.name}", about["data"])])
