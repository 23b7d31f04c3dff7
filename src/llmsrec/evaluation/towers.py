"""How well each tower of a version ranks, beside the teacher: SASRec, whose own ranking is the tower `teacher`.

What `cf` and `blend` are is said in `serving.schema.Request`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from llmsrec.evaluation import blend, report, tables
from llmsrec.evaluation.metrics import per_user
from llmsrec.evaluation.names import HEADLINE, OURS
from llmsrec.evaluation.overlap import overlap
from llmsrec.evaluation.significance import Bootstrap
from llmsrec.evaluation.tables import Table
from llmsrec.params import TOWERS

Vectors = dict[str, np.ndarray]  # split -> `[U, d]` of its users, "items" -> `[I + 1, d]`
PROTOCOL = "full"  # what decides whether a tower is served


def group(tower: str) -> str:
    """What a tower's figures are called in evaluation.json, beside the slices' (`tower_cf`)."""
    return f"tower_{tower}"


def vectors(
    config: dict[str, Any], of_cf: Callable[[np.ndarray], np.ndarray], ours: Vectors, theirs: Vectors
) -> dict[str, Vectors]:
    """What `tower_blend` ranks by, and `tower_cf` where the model was distilled.

    Args:
        config: config.json of LLM-SRec.
        of_cf: the teacher's user vectors `[U, d]` to those of `cf`, `[U, d']`.
        ours, theirs: LLM-SRec's and its teacher's.
    """
    made = {group("blend"): blend.vectors(config["blend"], ours, theirs)}
    if config["model"]["distill"]:  # else nobody trained f_CF-user
        users = {split: of_cf(seen) for split, seen in theirs.items() if split != "items"}
        made[group("cf")] = users | {"items": ours["items"]}
    return made


def of_test(ranks: report.Ranks, teacher: str) -> dict[str, dict[str, np.ndarray]]:
    """Tower -> protocol -> ranks on test, for `compare`.

    Args:
        ranks: of llm_srec and its teacher, which are those of `llm` and `teacher`; and of `tower_blend` and `tower_cf`,
            where there are such.
        teacher: the model there that taught LLM-SRec.
    """
    named = {"llm": OURS, "teacher": teacher, "blend": group("blend"), "cf": group("cf")}
    return {tower: ranks[name]["test"] for tower, name in named.items() if name in ranks}


def groups(ranks: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """What of `compare`'s ranks has no model's name in evaluation.json: group -> protocol -> ranks."""
    return {group(tower): of for tower, of in ranks.items() if tower not in ("llm", "teacher")}


def common(vectors: dict[str, Vectors], offsets: np.ndarray, history: np.ndarray) -> np.ndarray | None:
    """`[U]` share that the top 10 of `llm` and `cf` have in common on test; None without `cf`.

    Args:
        vectors: of `llm_srec`, and of `tower_cf` if there is such.
        offsets, history: see `overlap.overlap`.
    """
    if group("cf") not in vectors:
        return None
    ours, theirs = vectors[OURS], vectors[group("cf")]
    return overlap(ours["test"], theirs["test"], ours["items"], offsets, history)


def compare(ranks: dict[str, dict[str, np.ndarray]], common: np.ndarray | None, bootstrap: Bootstrap) -> dict[str, Any]:
    """`towers` of reports/comparison.json.

    Args:
        ranks: tower -> protocol -> `[U]` 0-based ranks of the users of test; `teacher` is one of the towers.
        common: `[U]` share that the top 10 of `llm` and `cf` have in common (see `common`); None without `cf`.
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
