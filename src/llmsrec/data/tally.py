"""How many of the data's rules hold, in the words of every place that says so."""

from collections.abc import Iterable, Mapping
from typing import Any


def tally(suites: Iterable[Mapping[str, Any]]) -> str:
    """`68 rules hold`, or `66 of 68 rules hold, 1 warns, 1 fails`, of the suites of reports/checks.json."""
    outcomes = [outcome for suite in suites for outcome in suite["expectations"]]
    broken = [outcome.get("level", "fail") for outcome in outcomes if not outcome["success"]]
    if not broken:
        return f"{len(outcomes)} rules hold"
    counts = {level: broken.count(level) for level in ("warn", "fail")}
    words = [f"{count} {level}{'s' if count == 1 else ''}" for level, count in counts.items() if count]
    return ", ".join([f"{len(outcomes) - len(broken)} of {len(outcomes)} rules hold", *words])
