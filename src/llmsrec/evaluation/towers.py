"""How well each tower of a version ranks, beside the teacher: SASRec, whose own ranking is the tower `teacher`.

What `cf` and `blend` are is said in `serving.schema.Request`.
"""

from typing import Any

import numpy as np

from llmsrec.evaluation import ranks as ranking
from llmsrec.evaluation import report, tables
from llmsrec.evaluation.metrics import per_user
from llmsrec.evaluation.names import HEADLINE
from llmsrec.evaluation.overlap import overlap
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.evaluation.tables import Table
from llmsrec.params import TOWERS

PROTOCOL = "full"  # what decides whether a tower is served


def group(tower: str) -> str:
    """What a tower's figures are called in evaluation.json, beside the slices' (`tower_cf`)."""
    return f"tower_{tower}"


def rank(
    ranks: report.Ranks,
    teacher: str,
    vectors: dict[str, np.ndarray],
    targets: np.ndarray,
    offsets: np.ndarray,
    history: np.ndarray,
    negatives: np.ndarray,
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray | None]:
    """The first two arguments of `compare`: `cf` and `blend` are ranked here, where there are such.

    Args:
        ranks: of llm_srec and its teacher on test, which are those of `llm` and `teacher`.
        teacher: the model there that taught LLM-SRec.
        vectors: LLM-SRec's: `test`, the `[U, d']` user vectors of `llm`; `cf`, those of `cf`, if it was distilled;
            `items`, `[I + 1, d']`; `blend` and `blend_items`, those of `evaluation.blend`, if a weight was fitted.
        targets, offsets, history, negatives: see `ranks.rank`.
    """
    by_tower = {"llm": ranks["llm_srec"]["test"], "teacher": ranks[teacher]["test"]}
    if "blend" in vectors:
        of_blend = vectors["blend"], vectors["blend_items"]
        by_tower["blend"] = ranking.rank(*of_blend, targets, offsets, history, negatives)
    if "cf" not in vectors:
        return by_tower, None
    by_tower["cf"] = ranking.rank(vectors["cf"], vectors["items"], targets, offsets, history, negatives)
    return by_tower, overlap(vectors["test"], vectors["cf"], vectors["items"], offsets, history)


def groups(ranks: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """What of `compare`'s ranks has no model's name in evaluation.json: group -> protocol -> ranks."""
    return {group(tower): of for tower, of in ranks.items() if tower not in ("llm", "teacher")}


def compare(ranks: dict[str, dict[str, np.ndarray]], common: np.ndarray | None, bootstrap: Bootstrap) -> dict[str, Any]:
    """`towers` of reports/comparison.json.

    Args:
        ranks: tower -> protocol -> `[U]` 0-based ranks of the users of test; `teacher` is one of the towers.
        common: `[U]` share that the top 10 of `llm` and `cf` have in common; None without `cf`.
        bootstrap: how intervals are made.

    Returns:
        `ndcg_10` and `hr_10` (tower -> protocol: mean, low, high), `minus_teacher` (tower -> protocol: the paired
        difference of NDCG@10 with its interval, but for the teacher), with a `blend` its `blend_minus_llm` (protocol:
        the same) and, with `common`, `overlap_10`.
    """
    figures: dict[str, Any] = {
        metric: {
            tower: {name: bootstrap.mean(per_user(of, metric)) for name, of in by.items()}
            for tower, by in ranks.items()
        }
        for metric in HEADLINE
    }

    def minus(tower: str, other: str) -> dict[str, Any]:
        pairs = {name: (of, ranks[other][name]) for name, of in ranks[tower].items()}
        return {name: bootstrap.difference(*(per_user(of, "ndcg_10") for of in pair)) for name, pair in pairs.items()}

    figures["minus_teacher"] = {tower: minus(tower, "teacher") for tower in ranks if tower != "teacher"}
    if "blend" in ranks:
        figures["blend_minus_llm"] = minus("blend", "llm")
    return figures if common is None else {**figures, "overlap_10": bootstrap.mean(common)}


def worse(difference: dict[str, float], margin: float) -> bool:
    """Whether a tower may be worse than its teacher by more than `margin`: the lower bound says so."""
    return difference["low"] <= -margin


def warning(towers: dict[str, Any], tower: str) -> str:
    """What is said of a tower that is `worse`: `cf: .0487, below its teacher's .1191: not to be served`."""
    own, teacher = (towers["ndcg_10"][name][PROTOCOL]["mean"] for name in (tower, "teacher"))
    if own >= teacher:  # by its mean alone
        return f"{tower}: {_short(own)}, not surely level with its teacher's {_short(teacher)}: not to be served"
    return f"{tower}: {_short(own)}, below its teacher's {_short(teacher)}: not to be served"


def warnings(towers: dict[str, Any], margin: float) -> list[str]:
    """A line for each tower that is not to be served; none for figures from before towers were compared."""
    differences = towers.get("minus_teacher", {})
    return [warning(towers, tower) for tower, minus in differences.items() if worse(minus[PROTOCOL], margin)]


def table(towers: dict[str, Any]) -> Table:
    """All figures of all towers."""
    rows: list[tuple[str, ...]] = []
    for tower in (name for name in TOWERS if name in towers["ndcg_10"]):
        scores = [towers[metric][tower][protocol] for protocol in ("uni99", PROTOCOL) for metric in HEADLINE]
        estimate = towers["minus_teacher"].get(tower, {}).get(PROTOCOL)
        minus = (
            ""
            if estimate is None
            else f"{estimate['difference']:+.4f} [{estimate['low']:+.4f}, {estimate['high']:+.4f}]"
        )
        rows.append((tower, *(f"{score['mean']:.4f}" for score in scores), minus))
    header = ("tower", "uni99 NDCG@10", "HR@10", "full NDCG@10", "HR@10", "full NDCG@10 minus teacher")
    return Table("Towers, test", header, rows)


def text(towers: dict[str, Any]) -> str:
    """`table` for a terminal."""
    return tables.text([table(towers)])


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")
