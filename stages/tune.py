"""An Optuna study over keys of params.yaml, told to MLflow -> reports/tuning/.

Its worker reads params.yaml whole: a study is about one setting of everything that decides a trial.
"""

from pathlib import Path

from llmsrec import params as parameters
from llmsrec.tuning import command, report
from stages.common import Stage, run

OUT = Path("reports/tuning")


def main(stage: Stage) -> None:
    """Run what is left of the study, then write what it found."""
    study = command.run(stage.root)
    files = report.write(study, OUT)
    command.log(study, parameters.load(Path("params.yaml")), stage.root, files)
    print(report.table(report.summary(study)), flush=True)


if __name__ == "__main__":
    run(main, "tune", Path("tuning"))
