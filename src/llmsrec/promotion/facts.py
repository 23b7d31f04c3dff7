"""What the gate judges: what is known of a version, of what it is compared with, and of how its bundle answers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from llmsrec.errors import LLMSRecError
from llmsrec.evaluation.metrics import of_users, per_user
from llmsrec.evaluation.names import OURS
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.scoring.held_out import HeldOut

METRIC, PROTOCOL = "ndcg_10", "full"


@dataclass(frozen=True)
class Evaluated:
    """What was measured of a version: the reports of its run.

    Attributes:
        version: its number.
        checks: reports/checks.json.
        comparison: reports/comparison.json.
        ranks: reports/ranks.parquet, and reports/tower_ranks.parquet of versions that have it.
        slices: reports/slices.parquet.
        test_users: reports/test_users.parquet; None for a version from before they were kept.
        added: reports/added.json, where items were added to the catalogue by title; the other reports are then those
            of the training, among whose items the ranks are.
    """

    version: int
    checks: dict[str, Any]
    comparison: dict[str, Any]
    ranks: pl.DataFrame
    slices: pl.DataFrame
    test_users: pl.DataFrame | None
    added: dict[str, Any] | None = field(default=None, kw_only=True)

    @property
    def model(self) -> str:
        """The model that these reports are about: LLM-SRec, or a sequential recommender by itself."""
        return str(self.comparison.get("model", OURS))

    @property
    def teacher(self) -> str:
        """The model that taught LLM-SRec; SASRec taught all from before there was a choice."""
        return str(self.comparison.get("teacher", "sasrec"))

    @property
    def distilled(self) -> bool:
        """Whether f_CF-user was trained, so that there is a tower `cf`: without, towers were measured but for that."""
        measured = self.comparison.get("towers", {})
        return "minus_teacher" not in measured or "cf" in measured["ndcg_10"]

    def ranked(self, model: str) -> bool:
        """Whether there are ranks of this model, or of `tower_<name>`."""
        return model in self.ranks["model"]

    def scores(self, model: str, split: str = "test") -> np.ndarray:
        """`[U]` float64: NDCG@10 among all items, of the users of test, by their ids; see `ranked`."""
        return of_users(self.ranks, model, split, PROTOCOL, METRIC)

    def difference(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
        """The paired difference, with the resamples and the seed of the version's own report."""
        interval = self.comparison["interval"]
        return Bootstrap(interval["resamples"], interval["seed"]).difference(ours, theirs)


@dataclass(frozen=True)
class Evidence(Evaluated):
    """What a version brings with it: its reports and what its bundle says of itself.

    Attributes:
        bundle_sha256: digest of the bundle, as the version is tagged.
        config: the bundle's config.json.
        parity: the bundle's parity.json.
    """

    bundle_sha256: str
    config: dict[str, Any]
    parity: dict[str, Any]

    @property
    def distilled(self) -> bool:
        """As the bundle says."""
        return bool(self.config.get("distilled", True))


@dataclass(frozen=True)
class OnOtherData:
    """A version that was tested on other data, asked about the challenger's test users (`scoring.held_out`).

    Attributes:
        version: its number.
        users: `[n]` user ids of the challenger's ranks.parquet.
        asked: how it ranked what they took next.
    """

    version: int
    users: np.ndarray
    asked: HeldOut

    def scores(self) -> np.ndarray:
        """`[n]` float64: NDCG@10 among all items of its own catalogue; 0 for a target that it does not know."""
        return per_user(self.asked.ranks[PROTOCOL], METRIC)


@dataclass(frozen=True)
class Rival:
    """A compared system (`rivals.find`).

    Attributes:
        system: its name.
        scores: `[U]` NDCG@10 among all items, of the version's users.
    """

    system: str
    scores: np.ndarray


@dataclass(frozen=True)
class Dropped:
    """Items that were added by title to the version that holds the alias, and that the challenger does not have.

    Attributes:
        version: the holder's number.
        items: how many.
        again: the command that adds them to the challenger.
    """

    version: int
    items: int
    again: str


Incumbent = Evaluated | OnOtherData | LLMSRecError | None


@dataclass(frozen=True)
class Smoke:
    """What a fresh process with nothing but the bundle's code did.

    Attributes:
        problem: why the bundle cannot be used, or None; the rest is then empty.
        requests: answered by each tower, one after the other.
        load_s: from the start of the process to the first tower's readiness, imports included.
        latency_ms: tower -> `p50`, `p99`.
        peak_mb: of the process, both towers loaded.
    """

    problem: str | None = None
    requests: int = 0
    load_s: float = 0.0
    latency_ms: dict[str, dict[str, float]] | None = None
    peak_mb: float = 0.0


def paired(ours: Evaluated, theirs: Evaluated) -> bool:
    """Whether two versions were tested on the same users and candidates, so that their ranks are pairs."""
    return bool(theirs.comparison.get("paired_by") == ours.comparison["paired_by"])
