"""Serve the version that MODEL_URI stands for, and follow its alias; what the images `serve` and `serve-torch` run.

python serve.py [options of `llmsrec serve`]

It is `llmsrec serve` with MODEL_URI, MLFLOW_TRACKING_URI and PORT from the environment, on all addresses of the
container: a serving image holds no more of this repository's packages than that needs.
"""

import os
import signal
import sys

# Process 1 of a container gets no SIGTERM that it has no handler for, and what is imported below takes seconds.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

# ruff: noqa: E402
import argparse

from llmsrec.errors import LLMSRecError
from llmsrec.registry.follow import Registry
from llmsrec.service import arguments, command


def main() -> None:
    parser = argparse.ArgumentParser(prog="serve.py")
    arguments.add(parser)
    uri, port = os.environ["MODEL_URI"], os.environ.get("PORT", "8080")
    options = parser.parse_args([uri, "--host", "0.0.0.0", "--port", port, *sys.argv[1:]])
    try:
        command.run(Registry(os.environ.get("MLFLOW_TRACKING_URI", ""), uri), options)
    except LLMSRecError as error:
        sys.exit(f"{uri} cannot be served: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
