"""What a system says of other data as an MLflow run: `python -m stages.log_cross llm_srec-retrieval`."""

from pathlib import Path

from llmsrec import params as parameters
from llmsrec.evaluation.names import MODELS
from llmsrec.registry import record
from stages.common import Stage, durations, load, run_item
from stages.cross import CROSS, OUT, task_of
from stages.log import log

METRICS = Path("metrics/cross")


def main(stage: Stage) -> None:
    name = f"cross@{stage.name.partition('@')[2]}"
    known: dict[Path, str] = {}
    ranking, params = load(name, CROSS, known), parameters.load(Path("params.yaml"))
    task = task_of(ranking)
    log(
        stage,
        task,
        OUT,
        METRICS,
        digest=ranking.digest,
        name=f"{MODELS[task.system]}, trained on {params.data.category}, asked about {params.cross.category}",
        params=record.used(params) | record.flatten(params.cross.model_dump(), "cross."),
        curve=[],
        tags={record.FORM: "cross", "data.category": params.cross.category},
        files=[Path("params.yaml")],
        seconds=durations(name, folder=CROSS, known=known),
    )


if __name__ == "__main__":
    run_item(main, "log", CROSS)
