"""The checks as pages to read in a browser: what is counted, a picture of each table, and Great Expectations' own page.

They load nothing from the network and run no script.
"""

import copy
import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from llmsrec.data.checks.pictures import Picture
from llmsrec.data.checks.shares import percent
from llmsrec.data.tally import tally
from llmsrec.files import atomic

# The pages of Great Expectations take styles, icons and scripts from the network; this is enough to read them without.
# What only a script would fill or open (the column of filters, the details of the run) is left out.
STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
td, th { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top }
td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.rules td:last-child { width: 6rem } .rules td.side { white-space: nowrap } .rules td:nth-child(2) { width: 24rem }
.bars { width: auto; min-width: 36rem } .bars td { border: 0; padding: .1rem .6rem }
.bars div { background: #0072b2; height: .9rem; min-width: 1px } .bars td:nth-child(2) { width: 20rem }
details { margin: 1.5rem 0; border-top: 1px solid #ccc; padding-top: .5rem } summary { cursor: pointer; color: #06c }
nav, form, footer, .modal, .col-lg-2, .collapse, [data-toggle=collapse], details br { display: none }
h5 { font-size: 1.1rem; margin: 1rem 0 .3rem } h6 { font-size: 1rem; margin: .5rem 0 } h2 { font-size: 1.2rem }
.fa-check-circle::before { content: "\\2713"; color: #070 } .fa-times::before { content: "\\2717"; color: #b00 }
.fa-exclamation-triangle::before { content: "!"; color: #b00; font-weight: bold }
a { color: #06c } ul { list-style: none; padding-left: 0 }
.failed { color: #b00; font-weight: bold } .warning { color: #a60; font-weight: bold } .passed { color: #070 }
.data { color: #666; font-size: .85rem; overflow-wrap: anywhere }
</style>"""
NETWORK = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<(?:img|a)\b[^>]*https?://[^>]*>|url\(['\"]?https?://[^)]*\)", re.DOTALL
)
# Its links are those of a site that it lays out itself: to a home page, and to a page of the suite without results.
ELSEWHERE = re.compile(r'<a href="(?:\.\./)+[^"]*"\s*>(.*?)</a>', re.DOTALL)
LIMITS, SIDES = "limits", ("warn", "fail")
HOME = '<p><a href="index.html">All checks</a></p>'
TABLES = {
    "schema": "Columns and types of all files",
    "limits": "What data are for: figures and their limits (checks in params.yaml)",
    "raw.reviews": "The events as they came, by item",
    "raw.items": "The catalogue as it came",
    "filtered.users": "Users that are kept",
    "filtered.items": "Items that are kept",
    "split.users": "Training, validation and test events, by user",
    "split.candidates": "Candidates of the evaluation",
}


def write(
    docs: Path,
    report: Mapping[str, Any],
    results: Mapping[str, ExpectationSuiteValidationResult],
    pictures: Mapping[str, Picture],
) -> None:
    """Write index.html and a page for each table.

    Args:
        report: as reports/checks.json holds it.
        results: Great Expectations' result of each table.
    """
    _write_text(docs / "index.html", _index(report, pictures))
    for suite in report["suites"]:
        _write_text(docs / f"{suite['name']}.html", _page(suite, results[suite["name"]], pictures))


def counted(outcome: Mapping[str, Any]) -> str:
    """What a rule counted, with examples of what breaks it."""
    return f"{_count(outcome)}{_examples(outcome)}"


def _examples(outcome: Mapping[str, Any]) -> str:
    examples = "; ".join(", ".join(f"{key} {value!r}" for key, value in row.items()) for row in outcome["examples"])
    return f", such as {examples}" if examples else ""


def broken(suite: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rules that do not hold; of a figure beyond both of its limits the one that fails."""
    violations = [outcome for outcome in suite["expectations"] if not outcome["success"]]
    failed = {outcome.get("figure") for outcome in violations if outcome["level"] == "fail"}
    return [outcome for outcome in violations if outcome["level"] != "warn" or outcome["figure"] not in failed]


def _count(outcome: Mapping[str, Any]) -> str:
    of, wrong, rows = outcome["of"], outcome["unexpected_count"], outcome["rows"]
    if "figure" in outcome:
        return outcome["shown"] if of is None else f"{outcome['shown']} ({_beyond(outcome)})"
    if of is None:
        return f"{outcome['observed']:,} {rows}" if isinstance(outcome["observed"], int) else str(outcome["observed"])
    return f"{wrong:,} of {of:,} {rows}" + (f" ({percent(wrong / of)})" if wrong else "")


def _beyond(outcome: Mapping[str, Any]) -> str:
    without = "without: " if outcome["figure"] == "titles" else ""
    return f"{without}{outcome['unexpected_count']:,} of {outcome['of']:,} {outcome['rows']}"


def _index(report: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    warnings = report["warnings"]
    verdict = "All checks passed" if report["passed"] else "Checks failed"
    verdict += f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    sections = [
        f'<h2><a href="{suite["name"]}.html">{html.escape(TABLES.get(suite["name"], suite["name"]))}</a></h2>'
        + _shown(suite, pictures)
        for suite in sorted(report["suites"], key=lambda suite: suite["name"] != LIMITS)
    ]
    digests = "; ".join(f"{part} sha256 {digest}" for part, digest in report["data"].items())
    beyond = [outcome for suite in report["suites"] for outcome in broken(suite)]
    first = f"<h2>Look at these first</h2>{_rules(beyond)}" if beyond else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{verdict}</title>{STYLE}</head><body>'
        f"<h1>{verdict}</h1><p>{tally(report['suites'])}</p>{first}{''.join(sections)}"
        f'<p class="data">Data: {digests}</p></body></html>\n'
    )


def _shown(suite: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    """A table's picture and rules."""
    picture = _bars(pictures[suite["name"]]) if suite["name"] in pictures else ""
    return picture + (_limits(suite) if suite["name"] == LIMITS else _rules(suite["expectations"]))


def _rules(outcomes: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        f"<tr><td>{html.escape(outcome['description'])}</td><td>{html.escape(_cell(outcome))}</td>"
        f'<td class="{_word(outcome)}">{_word(outcome)}</td></tr>'
        for outcome in outcomes
    ]
    head = "<tr><th>what must hold</th><th>counted</th><th>result</th></tr>"
    return f'<table class="rules">{head}{"".join(rows)}</table>'


def _limits(suite: Mapping[str, Any]) -> str:
    """A row for each figure, with both of its limits."""
    figures: dict[str, dict[str, Mapping[str, Any]]] = {}
    for outcome in suite["expectations"]:
        figures.setdefault(outcome["figure"], {})[outcome["level"]] = outcome
    rows = []
    for levels in figures.values():
        worst = min(levels.values(), key=lambda outcome: (outcome["success"], outcome["level"] != "fail"))
        sentence = worst["description"].rpartition(":")[0]
        sides = [levels[level]["description"].rpartition(": ")[2] if level in levels else "" for level in SIDES]
        cells = [sentence, _cell(worst)]
        rows.append(
            "<tr>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            + "".join(f'<td class="side">{side}</td>' for side in sides)
            + f'<td class="{_word(worst)}">{_word(worst)}</td></tr>'
        )
    head = "<tr><th>figure</th><th>counted</th><th>or it warns</th><th>or it fails</th><th>result</th></tr>"
    return f'<table class="rules">{head}{"".join(rows)}</table>'


def _cell(outcome: Mapping[str, Any]) -> str:
    if outcome["error"] is not None:
        return f"broken check: {outcome['error']}"
    return (
        counted(outcome)
        if "figure" in outcome or outcome["of"] is None
        else f"{_count(outcome)} break it{_examples(outcome)}"
    )


def _word(outcome: Mapping[str, Any]) -> str:
    return "passed" if outcome["success"] else "warning" if outcome["level"] == "warn" else "failed"


def _bars(picture: Picture) -> str:
    """Bars as long as their share of all."""
    total, longest = sum(picture.bars.values()), max([*picture.bars.values(), 1])
    rows = [
        f'<tr><td>{html.escape(name)}</td><td><div style="width:{100 * count / longest:.1f}%"></div></td>'
        f'<td class="n">{count:,}</td><td class="n">{percent(count / total) if total else ""}</td></tr>'
        for name, count in picture.bars.items()
    ]
    return (
        f'<p>{html.escape(picture.title[0].upper() + picture.title[1:])}</p><table class="bars">{"".join(rows)}</table>'
    )


def _page(suite: Mapping[str, Any], result: ExpectationSuiteValidationResult, pictures: Mapping[str, Picture]) -> str:
    """A table's rules and picture, and below Great Expectations' own page without what it would load.

    That one puts values of the data into the page as they are, so they are escaped before.
    """
    shown = copy.deepcopy(result)
    for outcome in shown.results:
        outcome.result, outcome.exception_info = _escaped(outcome.result), _escaped(outcome.exception_info)
    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(shown))
    page = ELSEWHERE.sub(r"\1", NETWORK.sub("", page))
    name = suite["name"]
    ours = f"<h1>{html.escape(TABLES.get(name, name))}</h1><p>Table <code>{html.escape(name)}</code></p>"
    ours += (_bars(pictures[name]) if name in pictures else "") + (
        _limits(suite) if name == LIMITS else _rules(suite["expectations"])
    )
    opened = f"<body>{HOME}{ours}<details><summary>As Great Expectations shows it</summary>"
    page = page.replace("</head>", f"{STYLE}</head>", 1).replace("<body>", opened, 1)
    return page.replace("</body>", "</details></body>", 1)


def _escaped(value: Any) -> Any:
    """The same with all text in it escaped for HTML."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
