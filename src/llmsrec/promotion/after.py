"""Who is told of a promotion once it is done: an address and a command of params.yaml; neither can undo it."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from llmsrec.params import AfterPromotion
from llmsrec.promotion.ledger import Decision
from llmsrec.redaction import redact

RETRIES, BACKOFF_S = 3, 0.5  # waits of up to 2 s
ANSWER_S = 5  # that an address is given for each try
COMMAND_S = 60  # that a command is given for each try
BUSY = (408, 429, 500, 502, 503, 504)  # the statuses that another try may mend


def tell(settings: AfterPromotion, model: str, made: Decision) -> list[str]:
    """Tell both, and return a line for each: what came of it. Nothing is raised, and it takes minutes at most.

    Both get `{"model", "version", "alias", "decision"}` as JSON: the address as a POST, the command on its standard
    input. A try that seemed to fail may have been heard, so who is told should know a decision by its number.
    """
    body = {"model": model, "version": made.version, "alias": made.alias, "decision": made.number}
    lines = []
    if settings.url:
        lines.append(_said(_host(settings.url), _tried(_post, settings.url, body)))
    if settings.command:
        lines.append(_said("registry.after_promotion.command", _tried(_run, settings.command, body)))
    return lines


def _tried(way: Callable[[str, dict[str, Any]], str | None], where: str, body: dict[str, Any]) -> str | None:
    """What `way` says; the promotion is done, so nothing that goes wrong here may make it look otherwise."""
    try:
        return way(where, body)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _said(who: str, problem: str | None) -> str:
    """A line without secrets: addresses of chats hold one in their path, so of an address only the host is shown."""
    if problem is None:
        return f"{who} was told"
    return redact(f"warning: {who} was not told: {' '.join(problem.split())[:300]}; the promotion stands")


def _host(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}"


def _post(url: str, body: dict[str, Any]) -> str | None:
    """Why it failed, or None."""
    retry = Retry(
        total=RETRIES, redirect=False, backoff_factor=BACKOFF_S, status_forcelist=BUSY, allowed_methods=None,
        respect_retry_after_header=False, raise_on_status=False,
    )  # fmt: skip
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        try:
            answer = session.post(url, json=body, timeout=ANSWER_S, allow_redirects=False, stream=True)
        except requests.RequestException as error:
            return f"{type(error).__name__} after {RETRIES + 1} tries"
    return None if answer.ok and not answer.is_redirect else f"it answered with status {answer.status_code}"


def _run(command: str, body: dict[str, Any]) -> str | None:
    """Why it failed each time, or None. The shell runs it, as it runs dvc.yaml's, so it may read the environment."""
    problem = ""
    for number in range(RETRIES + 1):
        time.sleep(BACKOFF_S * 2**number if number else 0)
        with tempfile.TemporaryFile() as sent, tempfile.TemporaryFile() as errors:
            sent.write(json.dumps(body).encode())
            sent.seek(0)
            # Files and not pipes, which whatever the command leaves running would hold open.
            process = subprocess.Popen(
                command, shell=True, stdin=sent, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
            try:
                status = process.wait(COMMAND_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"it took more than {COMMAND_S} s"
            errors.seek(0)
            last = (errors.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        if status == 0:
            return None
        problem = f"exit status {status} after {RETRIES + 1} tries" + (f", {last}" if last else "")
    return problem
