"""The few figures by which people compare experiments: metrics/summary.json, beside all of them in evaluation.json."""

from pathlib import Path
from typing import Any

from llmsrec.files import write_json


def write(folder: Path, evaluation: dict[str, Any], teacher: str) -> None:
    """Write evaluation.json, all figures, and summary.json."""
    write_json(folder / "evaluation.json", evaluation)
    write_json(folder / "summary.json", headline(evaluation, teacher))


def headline(evaluation: dict[str, Any], teacher: str) -> dict[str, float]:
    """Test metrics over all users, flat.

    Args:
        evaluation: of `report.evaluation`.
        teacher: the model there that taught LLM-SRec.

    Returns:
        Of LLM-SRec `uni99_ndcg_10`, `full_ndcg_10`, `full_hr_10` and `full_shuffled` (the relative change of full
        NDCG@10 when the histories are shuffled); of its teacher `teacher_uni99_ndcg_10` and `teacher_full_ndcg_10`.
    """
    ours, theirs = evaluation["llm_srec"], evaluation[teacher]["test"]
    full, shuffled = ours["test"]["full"], ours["test_shuffled"]["full"]
    return {
        "uni99_ndcg_10": ours["test"]["uni99"]["ndcg_10"],
        "full_ndcg_10": full["ndcg_10"],
        "full_hr_10": full["hr_10"],
        "full_shuffled": shuffled["ndcg_10"] / full["ndcg_10"] - 1 if full["ndcg_10"] else 0.0,
        "teacher_uni99_ndcg_10": theirs["uni99"]["ndcg_10"],
        "teacher_full_ndcg_10": theirs["full"]["ndcg_10"],
    }
