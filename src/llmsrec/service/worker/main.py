"""Run as a file by the service: load a bundle with its own code, test it, and answer what comes over a socket.

python -B main.py <bundle> <socket's file descriptor> <settings as JSON>

Settings: `llm`, whether this is the worker of `llm` and `blend` or of all others; `rows`, `cost`, `wait_s` of a batch;
`kept`, bytes for what was computed of users' prompts; `torch`, whether the language model runs on that in any case.
One thread: while a batch is computed, what arrives waits in the socket, and is the next batch.
"""

import contextlib
import json
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from batcher import Batch, Batcher, Job
from trial import problem
from wire import OF_LLM, Frames, frame

PIECE = 2**18  # bytes read at once
TITLE_COST = 64  # tokens, about those of an item prompt
PLAIN = {"dtype": "float32", "quantization": "none"}  # how a model computes that has no backbone


class Worker:
    """Answers the requests of its towers from one bundle."""

    def __init__(self, channel: socket.socket, recommender: Any, settings: dict[str, Any]) -> None:
        self._channel, self._recommender = channel, recommender
        self._llm = settings["llm"]
        self._batcher = Batcher(settings["rows"], settings["cost"], settings["wait_s"])
        self._frames = Frames()
        self._to_send: list[bytes] = []

    def run(self) -> None:
        """Until the other side hangs up and nothing waits any more."""
        poll = select.poll()  # `select` takes no descriptor beyond 1023, and a busy service has more than that
        poll.register(self._channel, select.POLLIN)
        while True:
            self._flush()
            patience = self._batcher.patience(time.monotonic())
            if poll.poll(None if patience is None else math.ceil(1000 * patience)):
                data = self._channel.recv(PIECE)
                if not data:
                    return
                for header, body in self._frames.feed(data):
                    self._accept(header, body)
                if not self._batcher.full:
                    continue  # what else has arrived is of the same batch
            batch, late = self._batcher.take(time.monotonic())
            for job in late:
                self._refuse(job.number, 504, "the deadline passed before the request was answered")
            if batch:
                self._answer(batch)

    def _accept(self, header: dict[str, Any], body: bytes) -> None:
        """Check a whole call, as its limits hold for all of it, and let our part of it wait."""
        from llmsrec.errors import RequestError

        number, arrived = header["id"], time.monotonic()
        try:
            requests = self._checked(header["path"], json.loads(body))
            mine = [requests[row] for row in header["rows"]]
            for row, request in zip(header["rows"], mine, strict=True):
                tower = request.tower or self._recommender.tower_of(request)  # older code names each request's tower
                if (tower in OF_LLM) != self._llm:
                    if header["path"] == "/similar":
                        raise RequestError("a title is read by the tower 'llm', which is not served here; ask by item")
                    raise RequestError(f"request {row}, `tower` is '{tower}', which is not served here")
            job = Job(number, header["rows"], mine, [self._cost(request) for request in mine], header["by"], arrived)
        except Exception as error:
            self._refuse(number, *explained(error))
            return
        if mine:
            self._batcher.add(job)
        else:
            self._send({"id": number, "status": 200, "sizes": [], "queued": 0.0, "popular": 0, "unknown": 0})

    def _checked(self, path: str, value: Any) -> list[Any]:
        """The requests of a call, any of which can be answered."""
        from llmsrec.errors import RequestError
        from llmsrec.serving import limits, schema

        if path != "/invocations" and not hasattr(schema, "parse_rank"):
            raise RequestError(
                f"this version's code is from before {path}; `dvc repro -f -s export register` makes one with today's"
            )
        if path == "/similar":
            request = schema.parse_similar(value)
            self._recommender.check_similar(request)
            return [request]
        requests = [schema.parse_rank(value)] if path == "/rank" else schema.parse(value["inputs"])
        limits.check_sums(requests)
        self._recommender.check(requests)
        return requests

    def _cost(self, request: Any) -> int:
        """Tokens of the prompt, or 1 where nothing but the number of requests counts."""
        if not self._llm:
            return 1
        if not hasattr(request, "history"):
            return TITLE_COST
        events = request.history
        history = self._recommender.history([e.parent_asin for e in events], [e.timestamp for e in events])
        return int(self._recommender.tower("llm").lengths([history])[0]) if len(history.items) else 1

    def _answer(self, batch: Batch) -> None:
        started = time.monotonic()
        try:
            answer = getattr(self._recommender, "answer", self._recommender.recommend)  # older code has only the latter
            answers = answer([job.requests[place] for job, place in batch])
        except Exception as error:
            if len(batch) > 1:  # whoever is to blame for it, the others get their answers
                for part in batch:
                    self._answer([part])
                    self._flush()  # who says nothing for long is taken for one that hangs
                return
            (job, _), (status, message) = batch[0], explained(error)
            self._batcher.drop(job)
            if None in job.answers:  # else another request of it has failed before
                job.answers.clear()
                self._refuse(job.number, status, message)
            return
        for (job, place), answer in zip(batch, answers, strict=True):
            if job.answers:
                job.answers[place] = answer
        cost = sum(job.costs[place] for job, place in batch)
        kept = self._recommender.kept() if self._llm and hasattr(self._recommender, "kept") else None
        seconds = time.monotonic() - started
        self._batcher.took(cost, seconds)
        self._send({"batch": len(batch), "cost": cost, "seconds": seconds, "kept": kept})
        for job in {id(job): job for job, _ in batch}.values():
            if job.answers and None not in job.answers:
                self._finish(job)

    def _finish(self, job: Job) -> None:
        texts = [answer.model_dump_json().encode() for answer in job.answers]
        header = {
            "id": job.number,
            "status": 200,
            "sizes": [len(text) for text in texts],
            "queued": (job.started or job.arrived) - job.arrived,
            "popular": sum(getattr(answer, "fallback", None) is not None for answer in job.answers),
            "unknown": sum(len(getattr(answer, "unknown", [])) for answer in job.answers),
        }
        self._send(header, b"".join(texts))

    def _refuse(self, number: int, status: int, message: str) -> None:
        self._send({"id": number, "status": status, "message": message})

    def _flush(self) -> None:
        """Send all of a batch at once: each piece would wake the service."""
        if self._to_send:
            self._channel.sendall(b"".join(self._to_send))
            self._to_send.clear()

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        self._to_send.append(frame(header, body))


def explained(error: Exception) -> tuple[int, str]:
    """Status and one sentence for an error; the trace of one that nobody foresaw goes to the log, without any value."""
    from llmsrec.errors import DataError, RequestError

    if isinstance(error, RequestError):
        return 400, str(error)
    if isinstance(error, RecursionError):
        return 400, "the request is nested too deeply"
    if isinstance(error, DataError):
        return 503, str(error)
    where = [f"{Path(part.filename).name}:{part.lineno}" for part in traceback.extract_tb(error.__traceback__)]
    log = {"level": "error", "message": "a request failed", "error": type(error).__name__, "where": where}
    print(json.dumps(log), file=sys.stderr, flush=True)
    return 500, "the request failed; the service's log says why"


def load(folder: Path, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The recommender, once its towers have passed the self-test, and what is said of it."""
    sys.path.insert(0, str(folder / "code"))
    import llmsrec
    from llmsrec.errors import DataError
    from llmsrec.serving import schema
    from llmsrec.serving.bundle import Bundle
    from llmsrec.serving.recommender import Recommender

    if not Path(llmsrec.__file__).is_relative_to(folder):
        raise DataError(f"{llmsrec.__file__} is not the bundle's code")
    llm, bundle = settings["llm"], Bundle.open(folder)
    on_onnx = not settings["torch"] and getattr(bundle, "layers", None) is not None
    recommender = Recommender(bundle, on_onnx=True) if on_onnx else Recommender(bundle)
    if not hasattr(recommender, "check"):
        raise DataError(
            "its code is from before `llmsrec serve`; `dvc repro -f -s export register` makes a version with today's"
        )
    if llm:
        recommender.warm()
        if hasattr(recommender, "keep"):  # older code computes each prompt anew
            recommender.keep(settings["kept"])
    asins, backbone = bundle.items["parent_asin"].to_list(), bundle.config.get("backbone", PLAIN)
    trained = asins[: getattr(bundle, "trained", len(asins))]  # older code knows no items that were added by title
    exact = (backbone["dtype"], backbone["quantization"]) == ("float32", "none")
    repeats = bundle.config.get("protocol", {}).get("repeats") == "keep"
    towers = getattr(bundle, "towers", None) or [t for t in schema.TOWERS if t != "cf" or bundle.config["distilled"]]
    served = [tower for tower in towers if (tower in OF_LLM) == llm]
    began = time.thread_time()  # whatever else the machine does
    for tower in served:
        if wrong := problem(recommender, schema.parse, trained, tower, exact, repeats):
            raise DataError(wrong)
    tested_s = time.thread_time() - began
    about = {
        "towers": served,
        "own": towers[0],
        "schemas": schemas(schema),
        "items": len(asins),
        "runtime": getattr(recommender, "runtime", "torch"),  # older code has it for torch alone
        "tested_s": tested_s,
    }
    return recommender, about


def schemas(schema: Any) -> dict[str, Any]:
    """JSON schemas of a request, an answer and what they hold, as an OpenAPI document refers to them."""
    from pydantic.json_schema import models_json_schema

    models: Any = [(schema.Request, "validation"), (schema.Answer, "serialization")]
    if hasattr(schema, "parse_rank"):  # older code knows no other paths
        models += [(schema.Rank, "validation"), (schema.Similar, "validation"), (schema.Neighbours, "serialization")]
    _, made = models_json_schema(models, ref_template="#/components/schemas/{model}")
    return dict(made["$defs"])


def main(folder: Path, descriptor: int, settings: dict[str, Any]) -> int:
    # The service ends its workers by hanging up, once they have answered: signals to all of a group are for it alone.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    try:
        recommender, about = load(folder, settings)
    except BaseException as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        channel.sendall(frame({"failed": reason.replace(f"{folder}: ", "").replace(f"{folder}/", "")}))
        return 1
    with contextlib.suppress(ConnectionError):  # the service has gone, or given us up: nobody waits for the rest
        channel.sendall(frame({"ready": about}))
        Worker(channel, recommender, settings).run()
    return 0


if __name__ == "__main__":
    os._exit(main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), json.loads(sys.argv[3])))
