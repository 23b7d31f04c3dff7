"""Serve one registered version; what the images `serve` and `serve-cf` run.

MODEL_URI is resolved once, here: moving an alias changes what the next start serves, not what this process does. The
version is copied to a folder of this process and compared with what was registered before any of it is imported. The
port opens when the model is loaded, so whoever can connect gets answers. `mlflow models serve` would do the same but
for the comparison, the limits and the end: it is a parent that a container's SIGTERM never reaches as process 1. Here
uvicorn is told itself, answers what it has accepted and exits with status 0.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a registry that is down is told of in seconds
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import requests
import uvicorn
from mlflow import MlflowClient, pyfunc
from mlflow.pyfunc import PyFuncModel, scoring_server

from llmsrec.redaction import redact
from llmsrec.registry.probe import only_sources
from llmsrec.registry.verified import named, verified
from llmsrec.service.limits import Limits

SECONDS_TO_FINISH = 20
SECONDS_TO_ANSWER = 6  # a registry that has not answered a greeting by then is down


def main() -> None:
    # Before anything slow, and again after uvicorn, which raises the signal anew for whoever was there before it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uri, registry = os.environ["MODEL_URI"], os.environ.get("MLFLOW_TRACKING_URI", "")
    greet(registry)
    with tempfile.TemporaryDirectory(prefix="llmsrec-") as place:
        try:
            client = MlflowClient()
            version = named(client, uri)
            model = load(verified(client, version, Path(place)))
        except Exception as error:  # the version's own code, too, raises what it likes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            sys.exit(redact(f"{uri} cannot be served from {registry}: {reason}"))
        about = f"{version.name} version {version.version}, run {version.run_id}, model {model.metadata.model_uuid}"
        print(f"serving {uri}: {about}", flush=True)
        app = Limits(scoring_server.init(model))
        uvicorn.run(
            app, host="0.0.0.0", port=int(os.environ.get("PORT", "8080")), timeout_graceful_shutdown=SECONDS_TO_FINISH
        )


def load(folder: Path) -> PyFuncModel:
    """Load a version with the code that it carries, from its sources alone; what verified it here makes room for it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "llmsrec"]:
        del sys.modules[name]
    only_sources(folder / "code")
    return pyfunc.load_model(str(folder))


def greet(registry: str) -> None:
    """End here if the registry is down: MLflow would try for minutes before it says so."""
    if registry.startswith(("http://", "https://")):
        try:
            requests.get(f"{registry.rstrip('/')}/health", timeout=SECONDS_TO_ANSWER, stream=True).close()
        except requests.exceptions.SSLError:
            pass  # somebody answered; MLflow knows its certificates
        except (requests.ConnectionError, requests.Timeout) as error:
            sys.exit(redact(f"the registry at {registry} does not answer ({type(error).__name__}): start it"))


if __name__ == "__main__":
    main()
