"""The rules that a version must meet to be promoted: figures against thresholds, and nothing else.

No rule here asks MLflow or reads a file: `evidence` and `smoke` have brought together what is judged.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl

from llmsrec.errors import LLMSRecError
from llmsrec.evaluation import towers
from llmsrec.evaluation.metrics import of_users, per_user
from llmsrec.evaluation.names import MODELS, OURS
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.params import TOWERS, Gate
from llmsrec.scoring.held_out import HeldOut

METRIC, PROTOCOL = "ndcg_10", "full"
PARTS = ("filtered", "split")  # of the data: what training and evaluation read
ANSWERING = "whole and answering"
RULES = ("data", "bundle", "parity", "quality", "order", "load", "towers")
INTEGRITY = "bundle"  # the rule that nobody can vouch for: an altered or broken bundle is not served


@dataclass(frozen=True)
class Evaluated:
    """What was measured of a version: the reports of its run.

    Attributes:
        version: its number.
        checks: reports/checks.json.
        comparison: reports/comparison.json.
        ranks: reports/ranks.parquet.
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

    def scores(self, model: str, split: str = "test") -> np.ndarray:
        """`[U]` float64: NDCG@10 among all items, of the users of test, by their ids."""
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


@dataclass(frozen=True)
class Figure:
    """One number (or digest, or word) that a rule looks at.

    Attributes:
        name: what it is of.
        value: what was found.
        interval: low and high of `value`, where it is a mean over users.
        limit: what it must be, in words; empty for what is only reported.
        holds: whether it is so; None for what is only reported.
        short: by how much it is not, in the figure's unit.
        warns: whether people should read it before they go on, though no rule is broken.
    """

    name: str
    value: float | str
    interval: tuple[float, float] | None = None
    limit: str = ""
    holds: bool | None = None
    short: float | None = None
    warns: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.shown()}" + (f" (must be {self.limit})" if self.limit else "")

    def shown(self) -> str:
        """The value as people read it, with its interval."""
        value = self.value if isinstance(self.value, str) else f"{self.value:.4g}"
        return value if self.interval is None else f"{value} [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"


@dataclass(frozen=True)
class Rule:
    """A rule with everything it looked at."""

    name: str
    figures: tuple[Figure, ...]

    @property
    def holds(self) -> bool:
        return all(figure.holds is not False for figure in self.figures)

    def failures(self) -> list[str]:
        """One sentence for each figure that is not as it must be."""
        lines = []
        for figure in self.figures:
            if figure.holds is False:
                by = "" if figure.short is None else f", short by {figure.short:.4g}"
                lines.append(f"rule {RULES.index(self.name) + 1} ({self.name}): {figure}{by}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        return {"rule": self.name, "holds": self.holds, "figures": [asdict(figure) for figure in self.figures]}


def judge(
    ours: Evidence,
    incumbent: Incumbent,
    holder: str,
    smoke: Smoke,
    limits: Gate,
    rival: Rival | None = None,
    dropped: Dropped | None = None,
) -> list[Rule]:
    """All rules of one version, in their order.

    Args:
        incumbent: the version that holds the alias now; None if nobody does, the error if it cannot be compared.
        holder: the alias, such as `staging`.
        smoke: what the bundle did in a fresh process.
        limits: params.yaml's `registry.gate`.
        rival: a compared system that it must not be worse than either.
        dropped: what the version that holds the alias offers by title alone and this one does not.
    """
    parts: dict[str, Callable[[], Iterable[Figure]]] = {
        "data": lambda: data(ours),
        "bundle": lambda: bundle(ours, smoke),
        "parity": lambda: parity(ours, limits),
        "quality": lambda: (*quality(ours, incumbent, holder, limits, rival), *without(dropped, holder)),
        "order": lambda: order(ours, limits),
        "load": lambda: load(smoke, limits),
        "towers": lambda: of_towers(ours, limits),
    }
    return [Rule(name, tuple(parts[name]())) for name in RULES]


def served(limits: Gate, of: Evaluated) -> str:
    """The model of a version that rules 4 and 5 judge: its teacher where that is the only tower that will be served."""
    return of.teacher if limits.towers == ["teacher"] else of.model


def tower(limits: Gate, of: Evaluated) -> str:
    """The tower of a version that gives the ranks of `served`."""
    return "teacher" if served(limits, of) == of.teacher else "llm"


def data(ours: Evidence) -> Iterator[Figure]:
    """Rule 1: the checks passed, for the data that the model was trained and evaluated on."""
    yield _equal("data checks", "passed" if ours.checks["passed"] else "failed", "passed")
    trained, evaluated, checked = ours.config.get("data", {}), ours.comparison["data"], ours.checks["data"]
    for part in PARTS:
        yield _same(f"{part} data that it was trained on", trained.get(part), checked[part])
        yield _same(f"{part} data that it was evaluated on", evaluated[part], checked[part])


def bundle(ours: Evidence, smoke: Smoke) -> Iterator[Figure]:
    """Rule 2: the files are those of the manifest, load without this repository, and answer."""
    yield Figure("bundle_sha256", ours.bundle_sha256[:12])
    yield _equal("its files, loaded and asked in a fresh process", smoke.problem or ANSWERING, ANSWERING)
    if ours.added is not None:
        yield _same("bundle in which its added items were measured", ours.added["bundle_sha256"], ours.bundle_sha256)


def parity(ours: Evidence, limits: Gate) -> Iterator[Figure]:
    """Rule 3: ONNX Runtime computes what torch computes, and an index finds what scoring all items does.

    How alike the towers `llm` and `cf` are stands beside it.
    """
    largest = max(ours.parity["largest_difference"].values())
    yield _at_most("largest difference of ONNX Runtime and torch", largest, ours.parity["tolerance"])
    for tower, top in ours.parity["top_10"].items():
        yield _at_least(f"users of {top['users']} with the same top 10, {tower}", top["same"], top["users"])
    of_llm = ours.parity.get("language_model", {})  # not of bundles from before
    if of_llm.get("runtime") == "onnx":
        what = (
            f"share of torch's 10 best items by the language model on ONNX Runtime ({of_llm['prompts']} users, items)"
        )
        yield _at_least(what, of_llm["overlap_10"], of_llm["least"])
    if added := ours.parity.get("added"):
        what = f"largest difference of {added['items']} items' vectors, computed anew as those of the added ones were"
        yield _at_most(what, added["largest_difference"], added["tolerance"])
    for tower, recall in index_of(ours).items():
        what = f"share of the exact 10 best items that the index finds, {tower} ({recall['users']} users)"
        yield _at_least(what, recall["recall_10"], limits.recall)
    if "overlap_10" in ours.comparison["towers"]:
        yield _measured("overlap@10 of the towers llm and cf", ours.comparison["towers"]["overlap_10"])


def index_of(ours: Evidence) -> dict[str, dict[str, float]]:
    """Tower -> what was measured of its index; of a longer catalogue anew, but for the teacher's, which is the same."""
    measured: dict[str, dict[str, float]] = ours.parity.get("index", {})
    return measured | (ours.added or {}).get("index", {})


def quality(
    ours: Evidence, incumbent: Incumbent, holder: str, limits: Gate, rival: Rival | None = None
) -> Iterator[Figure]:
    """Rule 4: no worse than SASRec, the rival, nor what holds the alias now, on the same users and candidates.

    Where `teacher` is the only tower that will be served, it is that which is compared with what holds the alias. A
    sequential recommender by itself is compared with that, too, and with the rival, but with no SASRec.

    A version that was tested on other data is compared by what it answers to this one's test users (`OnOtherData`):
    user by user, over those that were kept with this version, each ranked in its own catalogue.

    All these ranks are among the items of a training. What others that were added by title take from them is a figure
    of its own, so that a longer catalogue is not taken for a worse model, and may not cost more than the margin either.
    """
    yield from of_added(ours, limits)
    model = served(limits, ours)
    scores = ours.scores(model)
    if model == OURS:
        yield from _no_worse(ours, scores, ours.scores("sasrec"), "SASRec", limits)
    elif ours.model != OURS:
        yield Figure("SASRec", f"not compared: this is {MODELS[ours.model]} by itself, without a teacher")
    if rival is not None:
        yield from _no_worse(ours, scores, rival.scores, MODELS[rival.system], limits)
    if incumbent is None:
        yield Figure(f"version in {holder}", "none yet")
        return
    if isinstance(incumbent, LLMSRecError):
        yield Figure(f"version in {holder}", str(incumbent), None, "comparable", False)
        return
    name = f"version {incumbent.version} in {holder}"
    if ours.added is not None and isinstance(incumbent, Evaluated) and incumbent.comparison == ours.comparison:
        yield Figure(name, "the same training, so only what was added is compared")
        return
    if isinstance(incumbent, Evaluated):
        yield from _no_worse(ours, scores, incumbent.scores(served(limits, incumbent)), name, limits)
        return
    yield Figure(
        name, f"tested on other data, so asked about {len(incumbent.users):,} test users of version {ours.version}"
    )
    asked = incumbent.asked
    targets = f"{asked.unknown_targets:,} of {len(incumbent.users):,}"
    yield Figure("their last items that it does not know, each a miss", targets)
    yield Figure(
        "events of their histories that it does not know, skipped", f"{asked.unknown_events:,} of {asked.events:,}"
    )
    rows = np.searchsorted(ours.slices["user_id"].to_numpy(), incumbent.users)
    yield from _no_worse(ours, scores, incumbent.scores(), name, limits, rows)


def without(dropped: Dropped | None, holder: str) -> Iterator[Figure]:
    """Of rule 4: items that nobody will be recommended any more; a warning, as it may be meant."""
    if dropped is not None and dropped.items:
        what = f"items added by title to version {dropped.version} in {holder} that it does not have"
        yield Figure(what, f"{dropped.items:,}; a version with them: {dropped.again}", warns=True)


def of_added(ours: Evidence, limits: Gate) -> Iterator[Figure]:
    """Of rule 4: what the items that were added since the training, all together, cost those of the training."""
    if ours.added is None:
        return
    for tower, cost in ours.added["towers"].items():
        what = f"NDCG@10 {PROTOCOL}, {tower}, among {ours.added['items']} added items too, minus without"
        yield _measured(what, cost)
        if tower in limits.towers:
            yield _above(f"{what}, lower bound", cost["low"], -limits.margin)


def order(ours: Evidence, limits: Gate) -> Iterator[Figure]:
    """Rule 5: shuffling the history costs more than noise (paper, Sec. 2.3.2)."""
    model = served(limits, ours)
    change = ours.difference(ours.scores(model, "test_shuffled"), ours.scores(model))
    what = f"NDCG@10 {PROTOCOL}, shuffled minus original"
    yield _measured(what, change)
    yield _below(f"{what}, upper bound", change["high"], 0.0)


def load(smoke: Smoke, limits: Gate) -> Iterator[Figure]:
    """Rule 6: latency and memory of a smoke load."""
    if smoke.latency_ms is None:
        yield _equal("smoke load", "not measured", "measured")
        return
    for tower, latency in smoke.latency_ms.items():
        yield Figure(f"p50 of {smoke.requests} requests in ms, {tower}", latency["p50"])
        yield _at_most(f"p99 in ms, {tower}", latency["p99"], getattr(limits.latency_ms, tower))
    yield _at_most("peak memory in MB", smoke.peak_mb, limits.memory_mb)


def of_towers(ours: Evidence, limits: Gate) -> Iterator[Figure]:
    """Rule 7: no tower that will be served is worse than its teacher by more than the margin, user by user.

    Of the others it is said where that does not hold of them: they are in the bundle and would answer, too.
    """
    if ours.model != OURS:
        yield from _of_alone(ours, limits)
        return
    measured = ours.comparison["towers"]
    differences = {"llm": ours.difference(ours.scores("llm_srec"), ours.scores(ours.teacher))}
    for tower, by_protocol in measured.get("minus_teacher", {}).items():
        differences[tower] = by_protocol[PROTOCOL]
    for tower, scores in measured["ndcg_10"].items():
        yield _measured(f"NDCG@10 {PROTOCOL}, tower {tower}", scores[PROTOCOL])
    for tower in TOWERS:
        what, served = f"NDCG@10 {PROTOCOL}, tower {tower} minus its teacher", tower in limits.towers
        if tower == "teacher":
            continue  # it is what the others are measured by
        if tower in differences:
            minus = differences[tower]
            yield _measured(what, minus)
            if served:
                yield _above(f"{what}, lower bound", minus["low"], -limits.margin)
            elif towers.worse(minus, limits.margin) and "teacher" in measured["ndcg_10"]:
                yield Figure(
                    f"tower {tower} is not in registry.gate.towers", towers.warning(measured, tower), warns=True
                )
        elif served:
            yield Figure(f"tower {tower}", _why_unmeasured(ours, tower), None, "measured beside its teacher", False)


def _of_alone(ours: Evidence, limits: Gate) -> Iterator[Figure]:
    """Rule 7 of a sequential recommender by itself, whose only tower has no teacher to be worse than."""
    name = MODELS[ours.model]
    yield _measured(f"NDCG@10 {PROTOCOL}, tower teacher", ours.comparison["towers"]["ndcg_10"]["teacher"][PROTOCOL])
    yield Figure("tower minus its teacher", f"does not apply: this is {name} by itself, without a teacher")
    for missing in (tower for tower in limits.towers if tower != "teacher"):
        what = f"is not in this version, which is {name} by itself: requests that name it will be refused"
        yield Figure(f"tower {missing} of registry.gate.towers", what, warns=True)


def _why_unmeasured(ours: Evidence, tower: str) -> str:
    if tower == "cf" and not ours.config.get("distilled", True):
        return "none, as the model was trained without distillation (model.distill=false)"
    return "its run is from before towers were measured; `dvc repro` measures and registers it anew"


def paired(ours: Evaluated, theirs: Evaluated) -> bool:
    """Whether two versions were tested on the same users and candidates, so that their ranks are pairs."""
    return bool(theirs.comparison.get("paired_by") == ours.comparison["paired_by"])


def _no_worse(
    ours: Evidence, scores: np.ndarray, others: np.ndarray, name: str, limits: Gate, rows: np.ndarray | None = None
) -> Iterator[Figure]:
    """Non-inferiority of the mean by its lower bound; of slices, which are small, by the difference itself.

    Args:
        scores: `[U]`, of all users.
        others: of all users, or of those at `rows` alone.
    """
    rows = np.arange(len(scores)) if rows is None else rows
    scores = scores[rows]
    minus, what = ours.difference(scores, others), f"NDCG@10 {PROTOCOL} minus that of {name}"
    yield _measured(what, minus)
    yield _above(f"{what}, lower bound", minus["low"], 0.0 if limits.require_better else -limits.margin)
    for group in ours.slices.columns[1:]:
        users = ours.slices[group].to_numpy()[rows]
        if users.any():
            minus = ours.difference(scores[users], others[users])
            of_slice = f"{what}, {group.replace('_', '-')} ({users.sum()} users)"
            yield _at_least(of_slice, minus["difference"], -limits.slice_margin, (minus["low"], minus["high"]))


def _measured(name: str, interval: dict[str, float]) -> Figure:
    middle = interval["mean"] if "mean" in interval else interval["difference"]
    return Figure(name, middle, (interval["low"], interval["high"]))


def _above(name: str, value: float, limit: float) -> Figure:
    return Figure(name, value, None, f"above {limit:g}", value > limit, None if value > limit else limit - value)


def _below(name: str, value: float, limit: float) -> Figure:
    return Figure(name, value, None, f"below {limit:g}", value < limit, None if value < limit else value - limit)


def _at_least(name: str, value: float, limit: float, interval: tuple[float, float] | None = None) -> Figure:
    return Figure(
        name, value, interval, f"at least {limit:g}", value >= limit, None if value >= limit else limit - value
    )


def _at_most(name: str, value: float, limit: float) -> Figure:
    return Figure(name, value, None, f"at most {limit:g}", value <= limit, None if value <= limit else value - limit)


def _equal(name: str, value: str, expected: str) -> Figure:
    return Figure(name, value, None, expected, value == expected)


def _same(name: str, digest: str | None, expected: str) -> Figure:
    """Digests are compared whole and shown by their beginning."""
    return Figure(name, digest[:12] if digest else "not recorded", None, expected[:12], digest == expected)
