"""A decision as people read it: the gate's rules in a terminal and in Markdown, and why a version is refused."""

import platform
from collections.abc import Iterable
from importlib.metadata import version

from llmsrec.promotion.figures import Figure
from llmsrec.promotion.gate import RULES, Rule
from llmsrec.promotion.ledger import Decision
from llmsrec.registry.tracking import SERVING

MARKS = {True: "ok", False: "NO", None: ""}


def table(rules: Iterable[Rule]) -> str:
    """Every figure with its threshold, for the terminal."""
    lines = []
    for rule in rules:
        lines.append(f"rule {RULES.index(rule.name) + 1}, {rule.name}: {'holds' if rule.holds else 'DOES NOT HOLD'}")
        for figure in rule.figures:
            limit = f"must be {figure.limit}" if figure.limit else ""
            mark = "!!" if figure.warns else MARKS[figure.holds]
            lines.append(f"  {mark:<2}  {figure.name:<62}  {figure.shown():<28}  {limit}".rstrip())
    return "\n".join(lines)


def refusal(model: str, number: int, to: str, failures: list[str]) -> str:
    """Which rules, and by how much."""
    return (
        f"{model} version {number} is refused for {to}: {'; '.join(failures)}. Nothing was changed. Thresholds are "
        "`registry.gate` in params.yaml; `--force --reason TEXT` promotes against all rules but `bundle`, on record."
    )


def markdown(model: str, decision: Decision, rules: list[Rule], bundle_sha256: str) -> str:
    """The record of a decision, to be read in MLflow's UI."""
    was = decision.before[decision.alias]
    lines = [
        f"# Decision {decision.number}: {decision.action} {model} version {decision.version} to {decision.alias}",
        "",
        f"- at {decision.at} by {decision.by}",
        f"- {decision.alias} before: {'no version' if was is None else f'version {was}'}",
        f"- bundle_sha256 `{bundle_sha256}`",
    ]
    if decision.broken:
        lines.append(f"- **forced**, against: {', '.join(decision.broken)}")
    if decision.reason:
        lines.append(f"- reason: {decision.reason}")
    if rules:
        lines += ["", "| rule | figure | value | must be | holds |", "|---|---|---|---|---|"]
        lines += [_row(rule, figure) for rule in rules for figure in rule.figures]
    return "\n".join(lines) + "\n"


def _row(rule: Rule, figure: Figure) -> str:
    holds = "**warning**" if figure.warns else {True: "yes", False: "**no**", None: ""}[figure.holds]
    return f"| {rule.name} | {figure.name} | {figure.shown()} | {figure.limit} | {holds} |".replace("\n", " ")


def installed() -> dict[str, str]:
    """Versions of what judged: Python and the packages that serve."""
    return {"python": platform.python_version()} | {name: version(name) for name in SERVING}
