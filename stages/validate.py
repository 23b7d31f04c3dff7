"""The data against the rules; a failure stops the pipeline after the report is written."""

from pathlib import Path

from llmsrec.data import checks
from llmsrec.data.tally import tally
from llmsrec.errors import DataError
from llmsrec.files import atomic
from stages.common import Stage, run

RAW, FILTERED, SPLIT = Path("data/raw"), Path("data/filtered"), Path("data/split")
REPORT, DOCS, PASSED = Path("reports/checks.json"), Path("reports/data_docs"), Path("reports/passed.txt")


def main(stage: Stage) -> None:
    """Check, write the report, and fail if a rule does not hold; what is beyond a limit that warns is said last.

    Training waits for PASSED, whose content never changes, so that other data of the same items (split.shuffle_train)
    do not train the backbone again.
    """
    params = stage.params
    core, repeats, by = params.data.core, params.data.repeats, params.split.by
    limits, years = dict(params.checks), params.checks.old.years
    report = checks.run(RAW, FILTERED, SPLIT, core, params.split.negatives, limits, years, repeats, by)
    report.write(REPORT, DOCS)
    if not report.passed:
        lines = [report.explain(), *report.warnings(), f"The report is in {REPORT} and {DOCS}/index.html."]
        raise DataError("\n".join(lines))
    with atomic(PASSED) as temporary:
        temporary.write_text("All checks passed.\n", encoding="utf-8")
    print(f"{tally(report.suites())} -> {REPORT}, {DOCS}/index.html", *report.warnings(), sep="\n")


if __name__ == "__main__":
    run(main, "validate")
