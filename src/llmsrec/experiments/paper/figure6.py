"""Figures 6 and 9: users whom only some of the systems answer rightly, with titles and dates."""

import polars as pl

from llmsrec.data.sequences import Sequences
from llmsrec.evaluation.names import MODELS
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.results import Results
from llmsrec.experiments.runs import MAIN, Run, of
from llmsrec.experiments.section import Section

TITLE = "Figures 6 and 9: cases"
HISTORY, CASES, FIRST = 5, 2, 10  # items shown, users a case, and a hit is a rank below
WHO = {
    "only LLM-SRec is right": {"llm_srec": True, "a_llmrec": False, "sasrec": False},
    "LLM-SRec and A-LLMRec are right, SASRec is not": {"llm_srec": True, "a_llmrec": True, "sasrec": False},
    "LLM-SRec and SASRec are right, A-LLMRec is not": {"llm_srec": True, "a_llmrec": False, "sasrec": True},
    "LLM-SRec alone is wrong": {"llm_srec": False, "a_llmrec": True, "sasrec": True},
}


def runs(seeds: list[int]) -> list[Run]:
    return of(["original"], [MAIN, "a_llmrec-retrieval"], seeds)


def make(results: Results) -> Section:
    """Cases are the first users by id of each kind, under full and of the first seed: none was chosen."""
    hits = {
        model: results.values("original", model, "test", "full", "hr_10")[0].astype(bool)
        for model in ("llm_srec", "a_llmrec", "sasrec")
    }
    filtered = results.workspace.root / "data/filtered"
    titles = pl.read_parquet(filtered / "items.parquet", columns=["title"])["title"].to_list()
    events, users = Sequences.read(filtered / "interactions.parquet"), results.slices()["user_id"].to_list()
    tables = []
    for case, wanted in WHO.items():
        right = [all(hits[m][row] == hit for m, hit in wanted.items()) for row in range(len(users))]
        rows: list[tuple[str, ...]] = []
        for user in [user for user, yes in zip(users, right, strict=True) if yes][:CASES]:
            items, times = events.of(user)
            shown = pl.from_epoch(pl.Series(times[-HISTORY - 1 :]), time_unit="ms").dt.strftime("%Y/%m/%d").to_list()
            lines = [
                f"{day} {titles[item - 1]}" for day, item in zip(shown, items[-HISTORY - 1 :].tolist(), strict=True)
            ]
            rows.append((f"user {user}", "; ".join(lines[:-1]), lines[-1]))
        said = f"{sum(right):,} of {len(users):,} users: " + ", ".join(
            f"{MODELS[m]} {'yes' if h else 'no'}" for m, h in wanted.items()
        )
        rows = rows or [("nobody", "", "")]
        tables.append(Table(case, ("", "history", "target"), rows, f"{said} (HR@{FIRST}, full)"))
    return Section(TITLE, tables)
