"""The service's log, a JSON object a line, and, where asked for, the log of requests that `llmsrec drift` reads."""

import functools
import hashlib
import hmac
import json
import logging
import secrets
import time
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from llmsrec.errors import DataError
from llmsrec.redaction import redact

log = logging.getLogger(__name__)

STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, message and what `extra` gave; of an error its type and place."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": _redacted(record.getMessage()),
        }
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info and record.exc_info[1]:
            error, trace = record.exc_info[1], record.exc_info[2]
            where = []
            while trace:
                where.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
                trace = trace.tb_next
            line |= {"error": type(error).__name__, "where": where}
        return json.dumps(line, default=str)


@functools.lru_cache(maxsize=256)
def _redacted(message: str) -> str:
    """`redact`, once for each of the few messages that come again and again."""
    return redact(message)


def set_up() -> None:
    """All logs as JSON lines on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("llmsrec").setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


class _File(WatchedFileHandler):
    """Appends lines; what goes wrong is the caller's, as logging itself would print the line that holds a history."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class RequestLog:
    """A share of the answered requests, as `llmsrec drift --requests` reads them: drawn by user, users' ids hashed.

    Args:
        path: appended to; it may be moved away at any time, and is then made anew.
        share: of the users, 0 to 1; a request without a user counts as a user of its own.
        key: of the hashes; without one, a random one of this process, so that hashes tell nothing beyond its life.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path, share: float, key: str | None) -> None:
        self._share, self._key = share, (key or secrets.token_hex(16)).encode()
        self._failed = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _File(path, encoding="utf-8")
        except OSError as error:
            raise DataError(f"--log-requests {path} cannot be written: {error.strerror}") from error
        self._file.setFormatter(logging.Formatter("%(message)s"))

    def write(self, requests: list[dict[str, Any]], towers: list[str], user: str | None) -> None:
        """Log the requests of a call, and the towers that answered them; the user is known of a call with one.

        Where the file cannot be written, calls are answered all the same, and the service's log says it once.
        """
        now = int(time.time() * 1000)
        user = user if len(requests) == 1 else None
        digest = hmac.new(self._key, user.encode(), hashlib.sha256).hexdigest()[:16] if user else None
        for request, tower in zip(requests, towers, strict=False):  # of /similar there is a tower, and no history
            if int(digest or secrets.token_hex(8), 16) >= self._share * 2**64:
                continue
            line = {
                "time": now,
                "user": digest,
                "tower": tower,
                "history": request["history"],
            }
            self._append(json.dumps(line))

    def _append(self, line: str) -> None:
        failed = ""
        try:
            self._file.handle(logging.makeLogRecord({"msg": "%s", "args": (line,)}))
        except OSError as error:
            failed = error.strerror or type(error).__name__
        if failed and failed != self._failed:
            log.error("requests cannot be logged", extra={"file": self._file.baseFilename, "reason": failed})
        self._failed = failed
