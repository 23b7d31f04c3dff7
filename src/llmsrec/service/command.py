"""`llmsrec serve`: a process from its first line to its last."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from llmsrec.errors import DataError, LLMSRecError, RequestError
from llmsrec.service import arguments, logs, open_files
from llmsrec.service.app import Service, application
from llmsrec.service.connection import Connection
from llmsrec.service.edge import Edge
from llmsrec.service.logs import RequestLog
from llmsrec.service.metrics import Metrics
from llmsrec.service.open_files import BACKLOG
from llmsrec.service.swap import Registry, Swap, following
from llmsrec.service.users import Users
from llmsrec.service.workers import Settings

LOCAL = ["127.0.0.1", "localhost", "::1"]
LLM = {"rows": 32, "cost": 4096, "wait_s": 0.002}  # tokens: a batch of 32 prompts of a few hundred
OTHERS = {"rows": 16, "cost": 16, "wait_s": 0.0}  # each goes through SASRec by itself, so waiting would gain nothing
ACCEPTED = 16  # connections at once
TAKEN_S = 10.0  # for a client to take anything of what it is sent
SLACK_S = 5.0  # beyond the deadline, for answers that are on their way

log = logging.getLogger(__name__)


def run(registry: Registry, options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        LLMSRecError: the options, the port, the registry or the version cannot be used.
    """
    arguments.check(options)
    secret = token(options.token_file)
    asked = None
    if options.log_requests:
        asked = RequestLog(options.log_requests, options.log_share, os.environ.get("LLMSREC_LOG_KEY"))
    users = Users.read(options.users) if options.users else None
    with bound(options.host, options.port) as listener:
        registry.version()  # what cannot be had is said before anybody is told to wait
        logs.set_up()
        with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()) as runner:
            runner.run(_serve(registry, options, listener, secret, asked, users))


def token(path: Path | None) -> str | None:
    """What is in the file, or else in LLMSREC_TOKEN; None where nothing is asked for.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    if path is None:
        return os.environ.get("LLMSREC_TOKEN") or None
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--token-file {path} cannot be read: {getattr(error, 'strerror', 'not ASCII')}.") from error
    if not text:
        raise DataError(f"--token-file {path} is empty; write a token into it.")
    return text


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at the address, which answers nobody yet.

    Raises:
        RequestError: the address is no address of this machine, or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Said to be TCP, as asyncio asks before it turns Nagle's algorithm off, which costs an answer 40 ms.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RequestError(f"--host {host} is no address here: {error.strerror}.") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":  # its connections have it, too, also once they are closed here
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * TAKEN_S))
        try:
            listener.bind(address)
        except OSError as error:
            raise RequestError(f"{host}:{port} cannot be bound: {error.strerror}; choose another --port.") from error
        yield listener


def listeners(listener: socket.socket) -> list[socket.socket]:
    """The same socket several times: uvloop takes one connection of each in a turn of its loop, in which all others are
    served, so that of hundreds that come at once the last, and probes behind them, would wait for hundreds of turns.
    """
    return [listener, *(listener.dup() for _ in range(ACCEPTED - 1))]


def configuration(edge: Edge, ends_s: int, backlog: int = BACKLOG) -> uvicorn.Config:
    """Uvicorn's settings; nothing stands between our connections and the edge.

    Args:
        ends_s: what calls that are being answered are given once nothing new is taken.
        backlog: connections that may wait to be accepted.
    """
    return uvicorn.Config(
        edge, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, backlog=backlog, timeout_graceful_shutdown=ends_s,
    )  # fmt: skip


class _Server(uvicorn.Server):
    """Leaves signals to `_serve`: uvicorn would stop listening before anybody could see that we are no longer ready."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    registry: Registry,
    options: argparse.Namespace,
    listener: socket.socket,
    secret: str | None,
    asked: RequestLog | None,
    users: Users | None,
) -> None:
    metrics = Metrics()
    swap = Swap(registry, settings(options), metrics, options.deadline + SLACK_S)
    service = Service(swap, metrics, options.deadline, asked, secret is not None, users)
    edge = application(service, [*LOCAL, options.host, *options.allow_host], secret)
    edge.connections, backlog = open_files.connections()
    server = _Server(configuration(edge, int(options.deadline + SLACK_S), backlog))
    serving = asyncio.create_task(server.serve(sockets=listeners(listener)))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    log.info("loading", extra={"model": options.model, "pid": os.getpid()})
    first = asyncio.create_task(swap.first())
    try:
        await asyncio.wait({first, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            first.result()
            host, port = listener.getsockname()[:2]
            log.info("serving", extra={"address": f"{host}:{port}", "model": options.model, "pid": os.getpid()})
            async with following(swap, options.poll):
                await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
                await _drain(service, edge, options.drain)
                server.should_exit = True
                await serving
    except LLMSRecError:
        raise
    finally:
        first.cancel()
        server.should_exit = True
        await asyncio.gather(first, serving, return_exceptions=True)
        stopping.cancel()
    log.info("ended")


async def _drain(service: Service, edge: Edge, seconds: float) -> None:
    """Say that we are no longer ready, and answer those who have not heard it yet."""
    service.draining = edge.closing = True
    log.info("draining", extra={"calls": service.swap.current.calls if service.swap.current else 0})
    await asyncio.sleep(seconds)


def settings(options: argparse.Namespace) -> list[Settings]:
    """Those of each worker; none for the `llm` tower where it is not wanted."""
    limits = {"waiting": options.waiting, "deadline_s": options.deadline}
    made = [Settings(llm=False, **limits, **OTHERS)]  # type: ignore[arg-type]
    if not options.no_llm:
        made.append(Settings(llm=True, kept=options.kept * 2**20, torch=options.torch, **limits, **LLM))  # type: ignore[arg-type]
    return made
