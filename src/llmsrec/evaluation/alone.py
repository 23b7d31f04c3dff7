"""What is known of a compared system by itself, in the form in which LLM-SRec's reports say it."""

from pathlib import Path
from typing import Any

import polars as pl

from llmsrec.evaluation import report, towers
from llmsrec.evaluation.significance import Bootstrap


def read(path: Path) -> report.Ranks:
    """The ranks that `report.write_ranks` wrote."""
    ranks: report.Ranks = {}
    parts = pl.read_parquet(path).partition_by("model", "split", "protocol", as_dict=True, maintain_order=True)
    for (model, split, protocol), part in parts.items():
        ranks.setdefault(str(model), {}).setdefault(str(split), {})[str(protocol)] = part["rank"].to_numpy()
    return ranks


def comparison(ranks: report.Ranks, slices: report.Slices, bootstrap: Bootstrap, system: str) -> dict[str, Any]:
    """reports/comparison.json of a system, and of what was ranked beside it.

    Returns:
        what `report.comparison` does, with `model` and `teacher`, the system's name, and `towers`: as a version it is
        the tower `teacher` of its own.
    """
    of_tower = towers.compare({"teacher": ranks[system]["test"]}, None, bootstrap)
    of_ranks = report.comparison(ranks, slices, bootstrap, system)
    return of_ranks | {"model": system, "teacher": system, "towers": of_tower}
