"""The ASGI application: MLflow's scoring protocol, probes, metrics and the OpenAPI document."""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmsrec.service import decode, memory, openapi
from llmsrec.service.connection import CROWDED
from llmsrec.service.decode import Refused
from llmsrec.service.door import Door
from llmsrec.service.edge import PROBES, Edge
from llmsrec.service.logs import RequestLog
from llmsrec.service.metrics import Metrics, tower_label
from llmsrec.service.swap import Swap
from llmsrec.service.users import Users
from llmsrec.service.workers import Overloaded, full

BODY_S = 10.0  # that a body may take to arrive
JSON = "application/json"


@dataclass
class Service:
    """What the paths below speak for.

    Attributes:
        deadline_s: of each call.
        draining: it is about to end, and wants no more calls.
        bodies: how much of them is held.
        users: whose histories are known here.
        door: what lets calls in.
    """

    swap: Swap
    metrics: Metrics
    deadline_s: float
    log: RequestLog | None
    token: bool
    users: Users | None = None
    draining: bool = False
    bodies: decode.Bodies = field(default_factory=decode.Bodies)
    door: Door = field(init=False)

    def __post_init__(self) -> None:
        self.door = Door(self.swap, self.metrics, self.deadline_s)

    @property
    def ready(self) -> bool:
        """Whether calls should be sent here."""
        current = self.swap.current
        return bool(current and current.ready and not self.draining)

    async def invocations(self, request: Request) -> Response:
        """A call, whose body is held until its answer."""
        with self.bodies.holding() as hold:
            return await self._called(request, hold)

    async def _called(self, request: Request, hold: decode.Hold) -> Response:
        """Decode a call, have it answered, count it."""
        began, about, path = time.monotonic(), request.scope["about"], decode.form_of(request.scope["path"])
        towers: list[Any] = []
        status, by = 500, began + self.deadline_s
        try:
            headers = request.scope["headers_by_name"]
            loaded = self.swap.current
            if loaded is None:
                raise Refused(503, "no version is loaded yet; /readyz says how far it is", {"retry-after": "5"})
            decode.check_headers(headers.get("content-type", ""), headers.get("content-encoding", ""))
            body = await decode.read(request.receive, BODY_S, hold)
            if body is None:
                status = 499  # the client has gone, and hears nothing
                return Response(status_code=400)
            towers = loaded.towers(decode.glance(body, path), path)
            self.door.leave(request.scope)
            if after_s := full(loaded.workers_of(towers), by):
                raise Refused.overloaded(after_s)
            call, user = await decode.decode(body, path), headers.get("x-user")
            if path == decode.USERS and self.users is not None:
                user = request.scope["path"].removeprefix(decode.OF_USER)
                call = self.users.call(user, call)
            if self.log is None:  # nobody else reads them, and of a large body they are its largest form
                call = replace(call, requests=[])
            towers = loaded.towers(call.towers, path)
            response = await self._answer(call, by, about, user)
            status = 200
            return response
        except Overloaded as overloaded:
            status = 429
            raise Refused.overloaded(overloaded.after_s) from overloaded
        except Refused as refused:
            status = refused.status
            raise
        finally:
            self.metrics.answered(tower_label(towers), status, len(towers), time.monotonic() - began)

    async def _answer(self, call: decode.Call, by: float, about: dict[str, Any], user: str | None) -> Response:
        loaded = self.swap.current
        assert loaded  # it is never taken back
        try:
            answered = await loaded.answer(call, by)
        except TimeoutError as error:
            raise Refused(504, f"the request was not answered within {self.deadline_s:g} s, and is dropped") from error
        if answered.status != 200:
            raise Refused(answered.status, answered.body.decode())
        towers = loaded.towers(call.towers, call.path)
        label = tower_label(towers)
        self.metrics.queued.labels(label).observe(answered.queued_s)
        self.metrics.fallbacks.inc(answered.popular)
        self.metrics.unknown.inc(answered.unknown)
        about |= {
            "version": str(loaded.version),
            "tower": label,
            "requests": len(call.towers),
            "queued_ms": round(1000 * answered.queued_s, 2),
        }
        if self.log:
            self.log.write(call.requests, towers, user)
        named = {"x-llmsrec-version": str(loaded.version), "x-llmsrec-tower": label}
        return Response(answered.body, media_type=JSON, headers=named)

    async def livez(self, request: Request) -> Response:
        """The process answers, however much waits."""
        return JSONResponse({"live": True})

    async def readyz(self, request: Request) -> Response:
        """Whether calls are answered, by which version, and what is wrong with the next."""
        swap, current = self.swap, self.swap.current
        said: dict[str, Any] = {"ready": self.ready, "draining": self.draining}
        if current:
            version = current.version
            said |= {"model": version.name, "version": version.number, "alias": version.alias}
            said |= {"bundle": version.digest[:12], "towers": current.about["towers"]}
            said |= {"runtime": current.about["runtime"]}
            said |= {"workers": {name: worker.state for name, worker in current.workers.items()}}
        said |= {"refused": swap.refused, "registry": swap.registry or "answers"}
        return JSONResponse(said, 200 if self.ready else 503)

    async def ping(self, request: Request) -> Response:
        """As MLflow's scoring server says it."""
        return Response("\n", 200 if self.ready else 503, media_type=JSON)

    async def version(self, request: Request) -> Response:
        """MLflow's version, as its scoring server says it."""
        return Response(_mlflow(), media_type=JSON)

    async def figures(self, request: Request) -> Response:
        """Prometheus' text format."""
        self.metrics.ready.set(self.ready)
        for of_workers in (self.metrics.waiting, self.metrics.memory):
            of_workers.clear()  # a version without the `llm` tower has one worker less
        self.metrics.memory.labels("service").set(memory.resident(os.getpid()))
        if current := self.swap.current:
            for name, worker in current.workers.items():
                self.metrics.waiting.labels(name).set(worker.waiting)
                self.metrics.memory.labels(name).set(memory.held([worker.pid]))
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def document(self, request: Request) -> Response:
        """What the version that answers takes and gives."""
        current = self.swap.current
        if current is None:
            raise Refused(503, "no version is loaded yet")
        about = current.about
        named = str(current.version), about["schemas"], about["towers"]
        return JSONResponse(openapi.document(*named, self.users is not None, self.token))


def application(service: Service, hosts: list[str], token: str | None) -> Edge:
    """The whole application."""
    paths: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
        decode.INVOCATIONS: ("POST", service.invocations),
        decode.RANK: ("POST", service.invocations),
        decode.SIMILAR: ("POST", service.invocations),
        "/livez": ("GET", service.livez),
        "/readyz": ("GET", service.readyz),
        "/ping": ("GET", service.ping),
        "/health": ("GET", service.ping),
        "/version": ("GET", service.version),
        "/metrics": ("GET", service.figures),
        "/openapi.json": ("GET", service.document),
    }
    if service.users is not None:
        paths[decode.USERS] = ("POST", service.invocations)
    listed = ", ".join(paths)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["state"].get(CROWDED) and scope["path"] not in PROBES:
            with service.bodies.holding() as hold:
                await decode.read(receive, BODY_S, hold)  # what is sent to a closed connection takes the answer with it
            raise Refused(429, "too many connections are open", {"retry-after": "1", "connection": "close"})
        path = decode.form_of(scope["path"])
        if path not in paths:
            raise Refused(404, f"there is no such path; there are {listed}")
        method, endpoint = paths[path]
        if scope["method"] != method and (scope["method"], method) != ("HEAD", "GET"):
            raise Refused(405, f"the path takes another method; there are {listed}", {"allow": method})
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)

    return Edge(app, hosts, token, service.door)


def _mlflow() -> str:
    for name in ("mlflow", "mlflow-skinny"):
        try:
            return installed(name)
        except PackageNotFoundError:
            continue
    return ""
