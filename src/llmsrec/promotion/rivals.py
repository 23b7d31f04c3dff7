"""Which of the compared systems a version must not be worse than, besides SASRec (`registry.gate.against`)."""

import mlflow
import numpy as np
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from llmsrec.errors import DataError
from llmsrec.evaluation.metrics import of_users
from llmsrec.evaluation.names import OURS
from llmsrec.promotion.facts import METRIC, PROTOCOL, Evaluated, Rival
from llmsrec.registry.record import FORM, SYSTEM, paired

VALIDATION = f"valid/{PROTOCOL}/{METRIC}"
REMEDY = "`dvc repro baselines/dvc.yaml` trains them on the data of this repository"


def find(client: MlflowClient, run_id: str, ours: Evaluated, against: str) -> Rival | None:
    """The run of the system that `against` names, or of the best by validation; None where that is SASRec, or `ours`.

    Only systems that were ranked for the same users and candidates are looked at; of one system the newest run.

    Args:
        run_id: of the version, in whose experiment the others are.
        against: `sasrec`, `best` or a system's name.

    Raises:
        DataError: there is no such run, or it does not keep the ranks of all users.
    """
    if against in ("sasrec", ours.model):
        return None
    runs = _runs(client, run_id, ours)
    if runs.pop(ours.model, None) and not runs:
        return None
    if not runs or (against != "best" and against not in runs):
        missing = "any other system" if against == "best" else against
        raise DataError(
            f"`registry.gate.against` is {against!r}, but no run of {missing} is of the same users and candidates; "
            f"{REMEDY}."
        )
    if against == "best":
        least = float(ours.scores("sasrec" if ours.model == OURS else ours.model, "valid").mean())
        against = max(runs, key=lambda system: runs[system].data.metrics.get(VALIDATION, 0.0))
        if runs[against].data.metrics.get(VALIDATION, 0.0) <= least:
            return None
    return Rival(against, _scores(client, runs[against], against, ours))


def _runs(client: MlflowClient, run_id: str, ours: Evaluated) -> dict[str, Run]:
    """System -> its newest finished run in retrieval, of the same users and candidates."""
    same = [f"tags.`{key}` = '{value}'" for key, value in paired(ours.comparison["paired_by"]).items()]
    query = " and ".join([f"tags.`{FORM}` = 'retrieval'", "attributes.status = 'FINISHED'", *same])
    place = client.get_run(run_id).info.experiment_id
    newest: dict[str, Run] = {}
    for run in client.search_runs([place], filter_string=query, order_by=["attributes.start_time DESC"]):
        newest.setdefault(run.data.tags[SYSTEM], run)
    return newest


def _scores(client: MlflowClient, run: Run, system: str, ours: Evaluated) -> np.ndarray:
    """`[U]` its NDCG@10 among all items, of the users of `ours`."""
    try:
        path = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path="reports/ranks.parquet", tracking_uri=client.tracking_uri
        )
        ranks = pl.read_parquet(path)
    except (MlflowException, OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the ranks of {system}'s run {run.info.run_id} cannot be read; {REMEDY}.") from error
    rows = {"split": "test", "protocol": PROTOCOL}
    theirs, users = (
        of.filter(model=name, **rows)["user_id"] for of, name in ((ranks, system), (ours.ranks, ours.model))
    )
    if not theirs.sort().equals(users.sort()):
        raise DataError(f"{system}'s run {run.info.run_id} has ranks of other users; {REMEDY}.")
    return of_users(ranks, system, "test", PROTOCOL, METRIC)
