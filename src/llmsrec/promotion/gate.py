"""The rules that a version must meet to be promoted: figures against thresholds, and nothing else.

No rule here asks MLflow or reads a file: `evidence` and `smoke` have brought together what is judged.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmsrec.errors import LLMSRecError
from llmsrec.evaluation import towers
from llmsrec.evaluation.names import MODELS, OURS
from llmsrec.params import TOWERS, Gate
from llmsrec.promotion.facts import PROTOCOL, Dropped, Evaluated, Evidence, Incumbent, Rival, Smoke
from llmsrec.promotion.figures import Figure, above, at_least, at_most, below, equal, estimated, same

PARTS = ("filtered", "split")  # of the data: what training and evaluation read
ANSWERING = "whole and answering"
JUDGED = ("llm", "blend", "cf", "teacher")
RULES = ("data", "bundle", "parity", "quality", "order", "load", "towers")
UNDISTILLED = "none, as the model was trained without distillation (model.distill=false)"
INTEGRITY = "bundle"  # the rule that nobody can vouch for: an altered or broken bundle is not served


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


def tower(limits: Gate, of: Evaluated) -> str:
    """The tower of a version that rules 4 and 5 judge: the first of these that will be served. A sequential recommender
    by itself has one.
    """
    return "teacher" if of.model != OURS else next(name for name in JUDGED if name in limits.towers)


def served(limits: Gate, of: Evaluated) -> str:
    """What that tower's ranks are called."""
    if of.model != OURS:
        return of.model
    judged = tower(limits, of)
    return {"llm": OURS, "teacher": of.teacher}.get(judged, towers.group(judged))


def _unranked(limits: Gate, of: Evaluated, name: str) -> Figure | None:
    """That a version keeps no ranks of the tower that is judged, if so."""
    if of.ranked(served(limits, of)):
        return None
    judged = tower(limits, of)
    why = "its run is from before the ranks of this tower were kept; `dvc repro` evaluates and registers it anew"
    if judged == "cf" and not of.distilled:
        why = UNDISTILLED
    return Figure(f"{name}, tower {judged}", why, None, "ranked user by user", False)


def data(ours: Evidence) -> Iterator[Figure]:
    """Rule 1: the checks passed, for the data that the model was trained and evaluated on."""
    yield equal("data checks", "passed" if ours.checks["passed"] else "failed", "passed")
    trained, evaluated, checked = ours.config.get("data", {}), ours.comparison["data"], ours.checks["data"]
    for part in PARTS:
        yield same(f"{part} data that it was trained on", trained.get(part), checked[part])
        yield same(f"{part} data that it was evaluated on", evaluated[part], checked[part])


def bundle(ours: Evidence, smoke: Smoke) -> Iterator[Figure]:
    """Rule 2: the files are those of the manifest, load without this repository, and answer."""
    yield Figure("bundle_sha256", ours.bundle_sha256[:12])
    yield equal("its files, loaded and asked in a fresh process", smoke.problem or ANSWERING, ANSWERING)
    if ours.added is not None:
        yield same("bundle in which its added items were measured", ours.added["bundle_sha256"], ours.bundle_sha256)


def parity(ours: Evidence, limits: Gate) -> Iterator[Figure]:
    """Rule 3: ONNX Runtime computes what torch computes, and an index finds what scoring all items does.

    How alike the towers `llm` and `cf` are stands beside it.
    """
    largest = max(ours.parity["largest_difference"].values())
    yield at_most("largest difference of ONNX Runtime and torch", largest, ours.parity["tolerance"])
    for tower, top in ours.parity["top_10"].items():
        yield at_least(f"users of {top['users']} with the same top 10, {tower}", top["same"], top["users"])
    of_llm = ours.parity.get("language_model", {})  # not of bundles from before
    if of_llm.get("runtime") == "onnx":
        what = (
            f"share of torch's 10 best items by the language model on ONNX Runtime ({of_llm['prompts']} users, items)"
        )
        yield at_least(what, of_llm["overlap_10"], of_llm["least"])
    if added := ours.parity.get("added"):
        what = f"largest difference of {added['items']} items' vectors, computed anew as those of the added ones were"
        yield at_most(what, added["largest_difference"], added["tolerance"])
    for tower, recall in index_of(ours).items():
        what = f"share of the exact 10 best items that the index finds, {tower} ({recall['users']} users)"
        yield at_least(what, recall["recall_10"], limits.recall)
    if "overlap_10" in ours.comparison["towers"]:
        yield estimated("overlap@10 of the towers llm and cf", ours.comparison["towers"]["overlap_10"])


def index_of(ours: Evidence) -> dict[str, dict[str, float]]:
    """Tower -> what was measured of its index; of a longer catalogue anew, but for the teacher's, which is the same."""
    measured: dict[str, dict[str, float]] = ours.parity.get("index", {})
    return measured | (ours.added or {}).get("index", {})


def quality(
    ours: Evidence, incumbent: Incumbent, holder: str, limits: Gate, rival: Rival | None = None
) -> Iterator[Figure]:
    """Rule 4: no worse than SASRec, the rival, nor what holds the alias now, on the same users and candidates.

    It is the tower `llm` that is compared; where that will not be served (`registry.gate.towers`) `blend`, else `cf`,
    else `teacher`, which is compared with no SASRec, as it is one or has its own figure in rule 7. So is a sequential
    recommender by itself.

    A version that was tested on other data is compared by what it answers to this one's test users (`OnOtherData`):
    user by user, over those that were kept with this version, each ranked in its own catalogue.

    All these ranks are among the items of a training. What others that were added by title take from them is a figure
    of its own, so that a longer catalogue is not taken for a worse model, and may not cost more than the margin either.
    """
    yield from of_added(ours, limits)
    if unranked := _unranked(limits, ours, f"version {ours.version}"):
        yield unranked
        return
    scores = ours.scores(served(limits, ours))
    if tower(limits, ours) != "teacher":
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
        if unranked := _unranked(limits, incumbent, name):
            yield unranked
        else:
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
        yield estimated(what, cost)
        if tower in limits.towers:
            yield above(f"{what}, lower bound", cost["low"], -limits.margin)
    if "blend" in limits.towers and "blend" not in ours.added["towers"]:
        why = (
            "none, as items were added before it was measured; delete this version and its run in MLflow, then run "
            "`llmsrec items add` again"
        )
        yield Figure("what the added items cost the tower blend", why, None, "measured", False)


def order(ours: Evidence, limits: Gate) -> Iterator[Figure]:
    """Rule 5: shuffling the history costs more than noise (paper, Sec. 2.3.2)."""
    if unranked := _unranked(limits, ours, f"version {ours.version}"):
        yield unranked
        return
    model = served(limits, ours)
    change = ours.difference(ours.scores(model, "test_shuffled"), ours.scores(model))
    what = f"NDCG@10 {PROTOCOL}, shuffled minus original"
    yield estimated(what, change)
    yield below(f"{what}, upper bound", change["high"], 0.0)


def load(smoke: Smoke, limits: Gate) -> Iterator[Figure]:
    """Rule 6: latency and memory of a smoke load."""
    if smoke.latency_ms is None:
        yield equal("smoke load", "not measured", "measured")
        return
    for tower, latency in smoke.latency_ms.items():
        yield Figure(f"p50 of {smoke.requests} requests in ms, {tower}", latency["p50"])
        yield at_most(f"p99 in ms, {tower}", latency["p99"], getattr(limits.latency_ms, tower))
    yield at_most("peak memory in MB", smoke.peak_mb, limits.memory_mb)


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
        yield estimated(f"NDCG@10 {PROTOCOL}, tower {tower}", scores[PROTOCOL])
    for tower in TOWERS:
        what, served = f"NDCG@10 {PROTOCOL}, tower {tower} minus its teacher", tower in limits.towers
        if tower == "teacher":
            continue  # it is what the others are measured by
        if tower in differences:
            minus = differences[tower]
            yield estimated(what, minus)
            if served:
                yield above(f"{what}, lower bound", minus["low"], -limits.margin)
            elif towers.worse(minus, limits.margin) and "teacher" in measured["ndcg_10"]:
                yield Figure(
                    f"tower {tower} is not in registry.gate.towers", towers.warning(measured, tower), warns=True
                )
        elif served:
            yield Figure(f"tower {tower}", _why_unmeasured(ours, tower), None, "measured beside its teacher", False)


def _of_alone(ours: Evidence, limits: Gate) -> Iterator[Figure]:
    """Rule 7 of a sequential recommender by itself, whose only tower has no teacher to be worse than."""
    name = MODELS[ours.model]
    yield estimated(f"NDCG@10 {PROTOCOL}, tower teacher", ours.comparison["towers"]["ndcg_10"]["teacher"][PROTOCOL])
    yield Figure("tower minus its teacher", f"does not apply: this is {name} by itself, without a teacher")
    for missing in (tower for tower in limits.towers if tower != "teacher"):
        what = f"is not in this version, which is {name} by itself: requests that name it will be refused"
        yield Figure(f"tower {missing} of registry.gate.towers", what, warns=True)


def _why_unmeasured(ours: Evidence, tower: str) -> str:
    if tower == "cf" and not ours.distilled:
        return UNDISTILLED
    return "its run is from before towers were measured; `dvc repro` measures and registers it anew"


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
    yield estimated(what, minus)
    yield above(f"{what}, lower bound", minus["low"], 0.0 if limits.require_better else -limits.margin)
    for group in ours.slices.columns[1:]:
        users = ours.slices[group].to_numpy()[rows]
        if users.any():
            minus = ours.difference(scores[users], others[users])
            of_slice = f"{what}, {group.replace('_', '-')} ({users.sum()} users)"
            yield at_least(of_slice, minus["difference"], -limits.slice_margin, (minus["low"], minus["high"]))
