"""The data against the rules; a failure stops the pipeline after the report is written."""

from pathlib import Path

from llmsrec.data import checks
from llmsrec.errors import DataError
from llmsrec.files import atomic
from stages.common import Stage, run

RAW, FILTERED, SPLIT = Path("data/raw"), Path("data/filtered"), Path("data/split")
REPORT, DOCS, PASSED = Path("reports/checks.json"), Path("reports/data_docs"), Path("reports/passed.txt")


def main(stage: Stage) -> None:
    """Check, write the report, and fail if a rule does not hold.

    Training waits for PASSED, whose content never changes, so that other data of the same items (split.shuffle_train)
    do not train the backbone again.
    """
    params = stage.params
    report = checks.run(RAW, FILTERED, SPLIT, params.data.core, params.split.negatives, params.checks.titles.fail)
    report.write(REPORT, DOCS)
    if not report.passed:
        raise DataError(f"{report.explain()}\nThe report is in {REPORT} and {DOCS}/index.html.")
    with atomic(PASSED) as temporary:
        temporary.write_text("All checks passed.\n", encoding="utf-8")
    count = sum(len(result.results) for result in report.results.values())
    print(f"{count} rules hold; {report.share('filtered.items', 'titled'):.1%} of the items have a title -> {REPORT}")


if __name__ == "__main__":
    run(main, "validate")
