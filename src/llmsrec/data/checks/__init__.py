"""Is the data what we say it is? Great Expectations over raw, filtered and split data.

`tables` aggregates once with polars, `shares` measures what params.yaml sets limits to, `rules` says what must hold,
`report` what came of it, and `pages` shows it.
"""

from collections.abc import Mapping
from pathlib import Path

import great_expectations as gx
import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.data_context import AbstractDataContext
from great_expectations.data_context.types.base import ProgressBarsConfig

from llmsrec.data.checks import pictures, rules, shares, tables
from llmsrec.data.checks.pictures import Picture
from llmsrec.data.checks.report import Report
from llmsrec.data.checks.shares import EXAMPLES, Limits, Share
from llmsrec.files import read_json, sha256

__all__ = ["Report", "run"]


def run(
    raw: Path,
    filtered: Path,
    split: Path,
    core: int,
    negatives: int,
    limits: Mapping[str, Limits],
    years: float,
    repeats: str = "first",
    by: str = "last",
) -> Report:
    """Check the three folders.

    The schema comes first; where it fails, the other rules have nothing to stand on and are not tried.

    Args:
        core: events that each user and each item must have (data.core).
        negatives: the length that each list of candidates must have (split.negatives).
        limits: name of each figure (`shares.measure`) -> its limits (checks of params.yaml).
        years: an event older than the newest by more is old (checks.old.years).
        repeats: whether a user may have several events with one item (data.repeats).
        by: how the data were split (split.by); where by time, the manifest says at which times.

    Raises:
        DataError: a file is missing or is not parquet.
    """
    folders = {"raw": raw, "filtered": filtered, "split": split}
    files = tables.scan(folders)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    schema = rules.schema()
    results = {schema.table: validate(context, schema, tables.columns(files).to_pandas())}
    measured: list[Share] = []
    drawn: dict[str, Picture] = {}
    rows = {schema.table: schema.rows}
    if results[schema.table].success:
        measured = shares.measure(files, folders, core, years)
        values = pd.DataFrame({share.name: [share.value] for share in measured}, dtype=float)
        cuts = read_json(split / "manifest.json")["time"]["cuts"] if by == "time" else None
        frames = tables.aggregate(files, cuts)
        drawn = pictures.draw(frames)
        results[rules.LIMITS] = validate(context, rules.limits(measured, limits), values)
        items = frames["filtered.items"]["item_id"].count()
        for suite in rules.suites(core, negatives, items, repeats, by):
            results[suite.table] = validate(context, suite, frames[suite.table].to_pandas())
            rows[suite.table] = suite.rows
    digests = {part: sha256(folder) for part, folder in folders.items()}
    return Report(digests, results, {share.name: share for share in measured}, drawn, rows)


def validate(context: AbstractDataContext, suite: rules.Suite, frame: pd.DataFrame) -> ExpectationSuiteValidationResult:
    """Great Expectations' result for one table."""
    asset = context.data_sources.add_pandas(suite.table).add_dataframe_asset(suite.table)
    definition = gx.ValidationDefinition(
        name=suite.table,
        data=asset.add_batch_definition_whole_dataframe("all"),
        suite=context.suites.add(gx.ExpectationSuite(name=suite.table, expectations=list(suite.rules))),
    )
    detail = {
        "result_format": "SUMMARY",
        **({"unexpected_index_column_names": list(suite.keys)} if suite.keys else {}),
        "partial_unexpected_count": EXAMPLES,
    }
    return context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame}, result_format=detail
    )
