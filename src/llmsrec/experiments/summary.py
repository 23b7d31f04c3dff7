"""What the last `dvc repro` or `dvc exp run` left, and what to type next: what `llmsrec summary` shows."""

import shlex
from pathlib import Path

import polars as pl

from llmsrec import params as parameters
from llmsrec.data.titles import UNTITLED
from llmsrec.evaluation import example, rank_table, towers
from llmsrec.evaluation.report import table
from llmsrec.files import read_json, require_parquet
from llmsrec.registry import revisions

# Of `dvc exp show`: all of metrics/evaluation.json, files and times, so that metrics/summary.json's figures are left.
UNCHANGING = r".*(Created|/|\.(test|valid|user)\w*\.|teacher|hr_)"


def show() -> None:
    """Print the metrics, the registered version and commands that go on from there, of the current folder.

    Raises:
        DataError: a file of the last run is not there or broken.
    """
    evaluation, registered = read_json(Path("metrics/evaluation.json")), read_json(Path("metrics/registered.json"))
    comparison, gate = read_json(Path("reports/comparison.json")), parameters.load(Path("params.yaml")).registry.gate
    name, version = registered["name"], registered["version"]
    events, titles = _example()
    print(table(evaluation, comparison["negatives"]))
    if "minus_teacher" in comparison["towers"]:  # else of before towers were compared
        print("\n" + towers.text(comparison["towers"]))
    warnings = towers.warnings(comparison["towers"], gate.margin)
    for line in warnings:
        print(f"  warning: {line}")
    if warnings and "teacher" not in gate.towers:
        print("  `tower: teacher` answers instead; `registry.gate.towers` says which towers are judged and served")
    good = " --tower teacher" if any(line.startswith("llm:") for line in warnings) else ""
    print(f"\n{name} version {version}, MLflow run {registered['run_id']}\n\nNext:")
    for command, purpose in (
        *_commit(),
        ("dvc exp run -S model.uniform=false", "an ablation"),
        (
            f"dvc exp show --only-changed --drop '{UNCHANGING}'",
            "compares it; so do `dvc params diff`, `dvc metrics diff`",
        ),
        (
            "mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db",
            "runs, curves and versions in the browser; the list of runs has its metrics by Views > Quality",
        ),
        (
            f"llmsrec recommend --model models:/{name}/{version}{good} --k 5 --history {events}",
            f"an answer here, to {titles}",
        ),
        (f"llmsrec promote {name}/{version} --to staging", "what the gate says of it; --yes moves the alias"),
        (f"llmsrec serve models:/{name}/{version}", "a service: http://127.0.0.1:8080/invocations, /readyz, /metrics"),
    ):
        print(f"  {command}\n      {purpose}")


def _commit() -> list[tuple[str, str]]:
    """The command that makes a baseline of this run, where the checked-out commit has not got it."""
    lock = Path("dvc.lock")
    if not lock.exists() or revisions.show(Path.cwd(), "HEAD", "dvc.lock") == lock.read_text(encoding="utf-8"):
        return []
    files = Path("stages/sources/dvc.lock")
    own = f"{files} " if files.exists() else ""
    command = f"git add dvc.lock {own}params.yaml metrics reports && git commit -m 'Baseline'"
    return [(command, "what experiments are compared with: `llmsrec compare HEAD <experiment>`")]


def _example() -> tuple[str, str]:
    """A history for the command line, and its titles."""
    filtered, ranks = Path("data/filtered"), Path("reports/ranks.parquet")
    if ranks.exists():
        require_parquet(ranks, rank_table.COLUMNS, "`dvc repro evaluate` makes it")
    events = example.history(filtered, ranks) if ranks.exists() and filtered.is_dir() else []
    if events:
        return " ".join(shlex.quote(f"{asin}@{ms}") for asin, ms, _ in events), "; ".join(title for *_, title in events)
    items = pl.read_parquet("models/bundle/items.parquet").sort("count", descending=True, maintain_order=True)
    asin, title = items.filter(pl.col("title") != UNTITLED).vstack(items).select("parent_asin", "title").row(0)
    return shlex.quote(asin), title
