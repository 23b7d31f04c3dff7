"""What the checks found: a JSON file, pages to read in a browser, and the message of a failed stage."""

import copy
import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from llmsrec.files import atomic, write_json

EXAMPLES = 5

# The pages of Great Expectations take styles, icons and scripts from the network; this is enough to read them without.
# What only a script would fill or open (the column of filters, the details of the run) is left out.
STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
td, th { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top }
nav, form, footer, .modal, .col-lg-2, .collapse, [data-toggle=collapse] { display: none }
h5 { font-size: 1.1rem; margin: 1rem 0 .3rem } h6 { font-size: 1rem; margin: .5rem 0 }
.fa-check-circle::before { content: "\\2713"; color: #070 } .fa-times::before { content: "\\2717"; color: #b00 }
.fa-exclamation-triangle::before { content: "!"; color: #b00; font-weight: bold }
a { color: #06c } ul { list-style: none; padding-left: 0 } .fail { color: #b00 } .pass { color: #070 }
</style>"""
NETWORK = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<(?:img|a)\b[^>]*https?://[^>]*>|url\(['\"]?https?://[^)]*\)", re.DOTALL
)
# Its links are those of a site that it lays out itself: to a home page, and to a page of the suite without results.
ELSEWHERE = re.compile(r'<a href="(?:\.\./)+[^"]*"\s*>(.*?)</a>', re.DOTALL)
HOME = '<p><a href="index.html">All checks</a></p>'


@dataclass(frozen=True)
class Report:
    """Results of all suites.

    Attributes:
        data: part of the data -> digest of its folder, as it was checked.
        results: Great Expectations' result of each table, by the table's name.
    """

    data: Mapping[str, str]
    results: Mapping[str, ExpectationSuiteValidationResult]

    @property
    def passed(self) -> bool:
        """Whether every rule held."""
        return all(result.success for result in self.results.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the same for the same data; what `reports/checks.json` holds."""
        suites = [
            {"name": name, "success": bool(result.success), "expectations": [_plain(r) for r in _in_order(result)]}
            for name, result in self.results.items()
        ]
        return {"passed": self.passed, "data": dict(self.data), "suites": suites}

    def share(self, table: str, rule: str) -> float | None:
        """The share that a rule looks at; None where the table was not checked or is empty."""
        suites = {suite["name"]: suite["expectations"] for suite in self.to_dict()["suites"]}
        return next((one["share"] for one in suites.get(table, []) if one["rule"] == rule), None)

    def write(self, path: Path, docs: Path) -> None:
        """Write the JSON file, and `docs`/index.html with a page for each suite."""
        write_json(path, self.to_dict())
        _write_text(docs / "index.html", _index(self.to_dict()))
        for name, result in self.results.items():
            _write_text(docs / f"{name}.html", _page(result))

    def explain(self) -> str:
        """Every rule that failed, with count and examples; broken checks apart from bad data. Empty if all passed."""
        bad, broken = [], []
        for suite in self.to_dict()["suites"]:
            for outcome in suite["expectations"]:
                name = f"{suite['name']}.{outcome['rule']} ({outcome['description']})"
                if outcome["error"] is not None:
                    broken.append(f"  {name}: {outcome['error']}")
                elif not outcome["success"]:
                    bad.append(f"  {name}: {_counted(outcome)}")
        if bad:
            bad.insert(0, f"the data break {len(bad)} of the rules:")
        if broken:
            broken.insert(0, f"{len(broken)} checks are broken, and say nothing about the data, good or bad:")
            broken.append("  This is a defect of llmsrec.data.checks or of the installed great_expectations.")
        return "\n".join(bad + broken)


def _in_order(result: ExpectationSuiteValidationResult) -> list[ExpectationValidationResult]:
    """Results by rule name: Great Expectations returns the broken ones first."""
    return sorted(result.results, key=lambda outcome: _rule(outcome).meta["rule"])


def _rule(result: ExpectationValidationResult) -> Any:
    """The expectation that a result is of, as Great Expectations keeps it."""
    return result.expectation_config


def _plain(result: ExpectationValidationResult) -> dict[str, Any]:
    """One rule's outcome. `error` is None, or why the check could not be made.

    A rule on a share has that share, its limit, and what to do where it fails.
    """
    found, rule = result.result, _rule(result)
    error = next(_exceptions(result.exception_info), None)
    if error is None and not result.success and not found:
        error = "no result and no exception"
    of_share: dict[str, Any] = {}
    if rule.meta.get("share"):
        rows = found.get("element_count") or 0
        share = 1 - found.get("unexpected_count", 0) / rows if rows else None
        of_share = {"share": share, "limit": rule.kwargs["mostly"], "remedy": rule.meta["remedy"]}
    return {
        **of_share,
        "rule": rule.meta["rule"],
        "description": rule.description,
        "success": bool(result.success),
        "observed": _scalar(found.get("observed_value", found.get("element_count"))),
        "unexpected_count": found.get("unexpected_count", 0),
        "examples": [
            {key: _scalar(value) for key, value in row.items()}
            for row in found.get("partial_unexpected_index_list") or []
        ],
        "error": error,
    }


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


def _counted(outcome: Mapping[str, Any]) -> str:
    if not outcome["examples"]:
        return f"{outcome['observed']} rows"
    examples = "; ".join(", ".join(f"{key} {value!r}" for key, value in row.items()) for row in outcome["examples"])
    share = f"{outcome['share']:.1%}; not " if "share" in outcome else ""
    remedy = f"; {outcome['remedy']}" if "remedy" in outcome else ""
    return f"{share}{outcome['unexpected_count']} of {outcome['observed']} rows, such as {examples}{remedy}"


def _page(result: ExpectationSuiteValidationResult) -> str:
    """Great Expectations' own page of a suite, without what it would load from the network.

    It puts values of the data into the page as they are, so they are escaped before.
    """
    shown = copy.deepcopy(result)
    for outcome in shown.results:
        outcome.result, outcome.exception_info = _escaped(outcome.result), _escaped(outcome.exception_info)
    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(shown))
    page = ELSEWHERE.sub(r"\1", NETWORK.sub("", page))
    return page.replace("</head>", f"{STYLE}</head>", 1).replace("<body>", f"<body>{HOME}", 1)


def _escaped(value: Any) -> Any:
    """The same with all text in it escaped for HTML."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _index(report: Mapping[str, Any]) -> str:
    rows = [
        f'<tr><td><a href="{suite["name"]}.html">{suite["name"]}</a></td><td>{outcome["rule"]}</td>'
        f"<td>{html.escape(outcome['description'])}</td>"
        f'<td class="{"pass" if outcome["success"] else "fail"}">{_verdict(outcome)}</td></tr>'
        for suite in report["suites"]
        for outcome in suite["expectations"]
    ]
    digests = ", ".join(f"{part} {digest}" for part, digest in report["data"].items())
    verdict = "All checks passed" if report["passed"] else "Checks failed"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{verdict}</title>{STYLE}</head><body>'
        f"<h1>{verdict}</h1><p>Data: {digests}</p><table>"
        "<tr><th>table</th><th>rule</th><th>what must hold</th><th>result</th></tr>"
        f"{''.join(rows)}</table></body></html>\n"
    )


def _verdict(outcome: Mapping[str, Any]) -> str:
    if outcome["error"] is not None:
        return html.escape(f"broken check: {outcome['error']}")
    return "passed" if outcome["success"] else html.escape(_counted(outcome))


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
