"""A saved view of MLflow's list of runs, which shows no metric by itself: its menu "Views" offers it by name."""

import json
import time

TAG = "mlflow.sharedViewState.quality"  # of the experiment; MLflow's pages keep saved views so
NAME = "Quality"
COLUMNS = (
    "attributes.`Models`",
    "metrics.`test/uni99/ndcg_10`",
    "metrics.`test/full/ndcg_10`",
    "metrics.`test/full/hr_10`",
    "metrics.`time/llm_srec_s`",
    "attributes.`Source`",
    "attributes.`Version`",  # the git commit
)


def text() -> str:
    """The tag's value, as MLflow 3.17 writes and reads it."""
    state = json.dumps({"selectedColumns": COLUMNS})
    return json.dumps({"name": NAME, "createdAt": int(time.time() * 1000), "state": state})
