"""Serve one registered version; what the images `serve` and `serve-cf` run.

MODEL_URI is resolved once, here: moving an alias changes what the next start serves, not what this process does. The
port opens when the model is loaded, so whoever can connect gets answers. `mlflow models serve` would do the same but
for the end: it is a parent that a container's SIGTERM never reaches as process 1. Here uvicorn is told itself, answers
what it has accepted and exits with status 0.
"""

import os
import signal
import sys

import uvicorn
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

SECONDS_TO_FINISH = 20


def main() -> None:
    # Before anything slow, and again after uvicorn, which raises the signal anew for whoever was there before it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uri = os.environ["MODEL_URI"]
    try:
        model = pyfunc.load_model(uri)
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        sys.exit(f"{uri} cannot be served from {os.environ.get('MLFLOW_TRACKING_URI')}: {reason}")
    print(f"serving {uri}: run {model.metadata.run_id}, model {model.metadata.model_uuid}", flush=True)
    app = scoring_server.init(model)
    uvicorn.run(app, host="0.0.0.0", port=8080, timeout_graceful_shutdown=SECONDS_TO_FINISH)


if __name__ == "__main__":
    main()
