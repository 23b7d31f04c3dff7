"""Whether a tracking server answers at all: asked before MLflow's own clients are, which try for minutes.

This imports no more than what a serving image holds.
"""

import contextlib

import requests

ANSWER_S = 6  # a server or database that has not answered a greeting by then is down


def greet(uri: str) -> None:
    """Raise requests.RequestException unless somebody answers at an http address within `ANSWER_S`."""
    with contextlib.suppress(requests.exceptions.SSLError):  # then somebody answered; MLflow knows its certificates
        requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_S, allow_redirects=False, stream=True).close()
