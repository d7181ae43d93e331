"""uvicorn, as this gateway needs it: one process, or `server.workers` of them under uvicorn's supervisor.

    bind(settings)                     the listening socket, before anything else is started
    bound(host, port)                  the same for admin.port
    run(settings, config, listeners)   serves until SIGINT or SIGTERM
    create_worker()                    a worker process's application; it ends when its supervisor is gone

The drain is the application's own (`app.py`): uvicorn waits for what still runs, a little longer than the drain takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from gateway.api.middleware import NOSNIFF
from gateway.app import Gateway, build_app, create_app
from gateway.config.errors import SettingsError
from gateway.config.settings import Settings, load_settings
from gateway.http.connection import ConnectionFactory
from gateway.observability.metrics.multiprocess import VARIABLE as METRICS_DIR
from gateway.observability.metrics.multiprocess import directory_for_workers
from gateway.observability.request_log import configure_logging

HUNG_S: Final = 60.0
"""How long a worker may say nothing to its supervisor, its start included."""
RETRY_S: Final = 5.0
"""How long until another one is tried where a worker could not start."""
_AFTER_DRAIN_S: Final = 5
_LINGER_S: Final = 0.5
_BACKLOG: Final = 4096


def server_config(settings: Settings, app: Gateway | str) -> uvicorn.Config:
    """Uvicorn's settings. `app` is the import string of a factory where workers are separate processes."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=settings.server.host,
        port=settings.server.port,
        workers=settings.server.workers,
        http=ConnectionFactory(  # type: ignore[arg-type]  # uvicorn calls it as it calls a protocol's class
            max_head_bytes=settings.server.max_head_bytes,
            head_timeout_s=settings.server.head_timeout_s,
        ),
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_level="error",  # its warnings tell of what clients did: the request log's business
        access_log=False,
        server_header=False,
        headers=[NOSNIFF],
        date_header=True,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=settings.server.keep_alive_s,
        timeout_graceful_shutdown=int(settings.server.drain_timeout_s) + _AFTER_DRAIN_S,
    )


def bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises OSError where the address cannot be had."""
    return bound(settings.server.host, settings.server.port)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket that worker processes may inherit. Raises OSError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.set_inheritable(True)
    except OSError:
        listener.close()
        raise
    return listener


def run(settings: Settings, config_path: Path | None, *listeners: socket.socket) -> int:
    """Serves until SIGINT or SIGTERM, on the main socket and on the one for admin.port. Returns the exit code."""
    if settings.server.workers == 1:
        load = partial(load_settings, config_path) if config_path is not None else None
        server = Server(server_config(settings, build_app(settings, load=load)))
        server.run(sockets=list(listeners))
        return 0 if server.started else 1
    if config_path is not None:
        os.environ["GATEWAY_CONFIG"] = str(config_path.absolute())
    with directory_for_workers(settings.store.data_dir) as directory:
        os.environ[METRICS_DIR] = str(directory.absolute())
        configure_logging(settings.log.format, settings.log.level)
        end_s = settings.server.shutdown_delay_s + settings.server.drain_timeout_s + 2 * _AFTER_DRAIN_S
        supervisor = Supervisor(server_config(settings, "gateway.server:create_worker"), list(listeners), end_s)
        supervisor.run()
    return 1 if supervisor.failed else 0


class Server(uvicorn.Server):
    """Uvicorn's, but for its end: it stops listening a moment before it closes connections that say nothing.

    A front that opens a connection for each request has one taken an instant before its request comes; closed in
    between, the request is lost, since a front does not send a POST twice.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the server when all that runs has ended, or its time is over."""
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        await asyncio.sleep(_LINGER_S)
        await super().shutdown(sockets)


class Supervisor(Multiprocess):
    """Uvicorn's, but for four things.

    On SIGHUP workers read their configuration again; they are not replaced, streams and all. A worker has `HUNG_S` to
    say something, not 5 s: on a busy machine it takes longer to start, and would be killed again and again. And one
    that cannot start (a file that was edited since) ends the others only if none of them ever served. At the end, one
    that hangs is not waited for.

    State that changes: `failed`, no worker could start; `_served`, one did; when each was heard last, or is replaced.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], end_s: float) -> None:
        super().__init__(config, sockets)
        self.failed = False
        self._end_s = end_s
        self._served = False
        self._heard_s: dict[int | None, float] = {}
        self._replace_s: dict[int | None, float] = {}
        self._log = structlog.get_logger("gateway.server")

    def keep_subprocess_alive(self) -> None:
        """Replaces workers that have died or hang. It never waits: signals are handled between two of its rounds."""
        now_s = time.monotonic()
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if worker.pid not in self._replace_s:
                silent_s = now_s - self._last_heartbeat_s(worker, now_s)
                if worker.process.is_alive() and silent_s < HUNG_S:
                    continue
                self._replace(worker, now_s)
            if self._replace_s[worker.pid] <= now_s and not self.failed:
                del self._replace_s[worker.pid]
                self.processes[place] = Process(self.config, self.sockets)
                self.processes[place].start()

    def _last_heartbeat_s(self, worker: Process, now_s: float) -> float:
        """When it was heard last; from its start on it counts as heard."""
        with contextlib.suppress(OSError, EOFError):  # it has died
            worker.parent_conn.send(b"ping")
            while worker.parent_conn.poll():
                self._served = worker.parent_conn.recv() or self._served
                self._heard_s[worker.pid] = now_s
        return self._heard_s.setdefault(worker.pid, now_s)

    def _replace(self, worker: Process, now_s: float) -> None:
        hangs = worker.process.is_alive()
        worker.kill()
        worker.join()
        del self._heard_s[worker.pid]
        self._log.error("worker_hung" if hangs else "worker_died", pid=worker.pid, exit_code=worker.exitcode)
        cannot_start = worker.exitcode == STARTUP_FAILURE
        self._replace_s[worker.pid] = now_s + RETRY_S if cannot_start else now_s
        if cannot_start and not self._served:
            self.failed = True
            self.should_exit.set()

    def terminate_all(self) -> None:
        """Tells the workers that live to end."""
        for worker in self.processes:
            if worker.pid not in self._replace_s:
                worker.terminate()

    def join_all(self) -> None:
        """Waits for the workers' end; one that has not drained within `end_s` hangs, and is killed."""
        deadline_s = time.monotonic() + self._end_s
        for worker in self.processes:
            worker.process.join(max(0.0, deadline_s - time.monotonic()))
            if worker.process.is_alive():
                worker.kill()
            worker.process.join()

    def handle_hup(self) -> None:
        """Passes SIGHUP on."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


def create_worker() -> Gateway:
    """The application in a worker process: settings from GATEWAY_CONFIG and the environment.

    Raises SystemExit for a configuration that cannot be used: the command line has checked it, but it may have changed.
    A worker whose supervisor was killed drains and ends: else it would go on holding the port, with nobody to stop it.
    """
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        threading.Thread(target=_end_with, args=(supervisor,), name="supervisor", daemon=True).start()
    try:
        return create_app()
    except SettingsError as error:
        configure_logging("json", "error")
        structlog.get_logger("gateway.server").error("worker_not_started", reason="; ".join(error.problems))
        raise SystemExit(STARTUP_FAILURE) from None


def _end_with(supervisor: BaseProcess) -> None:
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
