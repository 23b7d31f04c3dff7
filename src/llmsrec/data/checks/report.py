"""What the checks found: a JSON file, the message of a failed stage, and the warnings of one that goes on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

from llmsrec.data.checks import pages
from llmsrec.data.checks.pictures import Picture
from llmsrec.data.checks.shares import Share
from llmsrec.files import write_json


@dataclass(frozen=True)
class Report:
    """Results of all suites.

    Attributes:
        data: part of the data -> digest of its folder, as it was checked.
        results: Great Expectations' result of each table, by the table's name.
        shares: the figures that have limits, by name.
        pictures: of the tables that have one.
        rows: what the rows of each table are.
    """

    data: Mapping[str, str]
    results: Mapping[str, ExpectationSuiteValidationResult]
    shares: Mapping[str, Share] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every rule held, but for those that only warn."""
        return all(suite["success"] for suite in self.suites())

    def suites(self) -> list[dict[str, Any]]:
        """Plain values of each table's rules."""
        suites = []
        for name, result in self.results.items():
            outcomes = [self._plain(outcome, self.rows.get(name, "rows")) for outcome in _in_order(result)]
            held = all(outcome["success"] for outcome in outcomes if outcome["level"] == "fail")
            suites.append({"name": name, "success": held, "expectations": outcomes})
        return suites

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the same for the same data; what `reports/checks.json` holds."""
        suites = self.suites()
        return {
            "passed": all(suite["success"] for suite in suites),
            "warnings": sum(len(_broken(suite, "warn")) for suite in suites),
            "data": dict(self.data),
            "suites": suites,
        }

    def write(self, path: Path, docs: Path) -> None:
        """Write the JSON file, and `docs`/index.html with a page for each suite."""
        plain = self.to_dict()
        write_json(path, plain)
        pages.write(docs, plain, self.results, self.pictures)

    def explain(self) -> str:
        """Every rule that failed, with count and examples; broken checks apart from bad data. Empty if all passed."""
        bad, broken = [], []
        for suite in self.suites():
            for outcome in _broken(suite, "fail"):
                name = f"{suite['name']}.{outcome['rule']} ({outcome['description']})"
                if outcome["error"] is not None:
                    broken.append(f"  {name}: {outcome['error']}")
                else:
                    bad.append(f"  {name}: {pages.counted(outcome)}{_remedy(outcome)}")
        if bad:
            bad.insert(0, f"the data break {len(bad)} of the rules:")
        if broken:
            broken.insert(0, f"{len(broken)} checks are broken, and say nothing about the data, good or bad:")
            broken.append("  This is a defect of llmsrec.data.checks or of the installed great_expectations.")
        return "\n".join(bad + broken)

    def warnings(self) -> list[str]:
        """A line for each limit that only warns and is passed, where the one that fails is not."""
        return [
            f"warning: {outcome['description']}; it is {pages.counted(outcome)}; {outcome['remedy']}"
            for suite in self.suites()
            for outcome in pages.broken(suite)
            if outcome["level"] == "warn"
        ]

    def _plain(self, result: ExpectationValidationResult, rows: str) -> dict[str, Any]:
        """One rule's outcome. `error` is None, or why the check could not be made.

        `unexpected_count` of `of` `rows` are on the wrong side. A limit has its figure's name and value (`share`), its
        `limit`, and what to do beyond it.
        """
        details, rule = result.result, _rule(result)
        error = next(_exceptions(result.exception_info), None)
        if error is None and not result.success and not details:
            error = "no result and no exception"
        plain = {
            "rule": rule.meta["rule"],
            "level": rule.meta.get("level", "fail"),
            "description": rule.description,
            "success": bool(result.success),
            "observed": _scalar(details.get("observed_value", details.get("element_count"))),
            "unexpected_count": details.get("unexpected_count", 0),
            "of": details.get("element_count"),
            "rows": rule.meta.get("rows", rows),
            "error": error,
        }
        if "share" not in rule.meta:
            rows_named = details.get("partial_unexpected_index_list") or []
            return plain | {"examples": [{key: _scalar(value) for key, value in row.items()} for row in rows_named]}
        share = self.shares[rule.meta["share"]]
        return {
            **plain,
            "figure": share.name,
            "limit": rule.meta["limit"],
            "share": share.value,
            "shown": share.text(share.value),
            "observed": share.value,
            "unexpected_count": share.count,
            "of": share.of,
            "rows": share.what,
            "examples": [] if result.success else [dict(row) for row in share.examples()],
            "remedy": share.remedy,
        }


def _broken(suite: Mapping[str, Any], level: str) -> list[dict[str, Any]]:
    return [outcome for outcome in suite["expectations"] if not outcome["success"] and outcome["level"] == level]


def _remedy(outcome: Mapping[str, Any]) -> str:
    if "remedy" not in outcome:
        return ""
    way = "lower" if outcome["limit"] > outcome["share"] else "raise"
    return f"; {outcome['remedy']}; to go on all the same, {way} checks.{outcome['figure']}.fail"


def _in_order(result: ExpectationSuiteValidationResult) -> list[ExpectationValidationResult]:
    """Results by rule name: Great Expectations returns the broken ones first."""
    return sorted(result.results, key=lambda outcome: _rule(outcome).meta["rule"])


def _rule(result: ExpectationValidationResult) -> Any:
    """The expectation that a result is of, as Great Expectations keeps it."""
    return result.expectation_config


def _exceptions(info: Mapping[str, Any]) -> Iterator[str]:
    """Messages of raised exceptions: `info` is flat, or holds one such mapping for each metric."""
    if info.get("raised_exception"):
        yield str(info.get("exception_message"))
    for value in info.values():
        if isinstance(value, Mapping):
            yield from _exceptions(value)


def _scalar(value: Any) -> Any:
    """A cell of a pandas frame as JSON takes it; a column of integers that has nulls comes as floats."""
    if pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
