"""Runs uvicorn: one process, or `server.workers` processes under a supervisor.

    bind(settings)                     opens the listening socket, before anything else is started
    bound(host, port)                  the same for admin.port
    run(settings, config, listeners)   serves until SIGINT or SIGTERM
    create_worker()                    the application of a worker process, which ends when its supervisor has ended

What belongs to a whole process is set here: its log of state changes, and how often the garbage collector looks.
The drain is the application's own (`app.py`): uvicorn waits for what still runs, a little longer than the drain takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
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
from typing import Final, cast

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from gateway.api.middleware import NOSNIFF
from gateway.app import Gateway, build_app
from gateway.concurrency.tcp import keep_alive
from gateway.config.errors import SettingsError
from gateway.config.sections import LogSettings
from gateway.config.settings import Settings, load_settings
from gateway.http.client_address import ClientAddresses
from gateway.http.connection import ClientConnection
from gateway.http.connection_budget import ConnectionLimits
from gateway.http.connection_factory import ConnectionFactory
from gateway.ledger.owners import LOST_VARIABLE, RUN_VARIABLE
from gateway.observability.metrics.multiprocess import VARIABLE as METRICS_DIR
from gateway.observability.metrics.multiprocess import directory_for_workers
from gateway.observability.request_log import configure_logging
from gateway.worker.signals import max_delay_s

HUNG_S: Final = 60.0
"""The longest time without a heartbeat before a worker is replaced. A worker's start counts too."""
RETRY_S: Final = 5.0
"""The pause before a worker that could not start is started again."""
COLLECT_EVERY: Final = 20_000
"""How many new containers are allocated between two garbage collections.

A request leaves no reference cycles. Python's default of 700 costs 7 % of a JSON answer and finds nothing.
"""
LARGE_MEMORY_BYTES: Final = 8 * 1024 * 1024
SPARE_MEMORY_BYTES: Final = 8 * 1024 * 1024
"""How much free memory a worker keeps for the next bodies.

New memory from the system costs a page fault for every 4 KiB. For a body of 5 MB these take longer than all else.
"""
_M_MMAP_THRESHOLD: Final = -3
_M_TRIM_THRESHOLD: Final = -1
_M_ARENA_MAX: Final = -8
_AFTER_DRAIN_S: Final = 5
_MAX_LOST_WORKERS: Final = 20
_LINGER_S: Final = 0.5
_MAX_LINGER_S: Final = 2.0
"""How long a client that has connected, and sent nothing, is waited for."""
_LOOK_EVERY_S: Final = 0.05
_BACKLOG: Final = 4096


def server_config(settings: Settings, app: Gateway | str) -> uvicorn.Config:
    """Returns uvicorn's settings. `app` is the import string of a factory where workers are separate processes."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=settings.server.host,
        port=settings.server.port,
        workers=settings.server.workers,
        http=_connections(settings),  # type: ignore[arg-type]  # uvicorn calls it as it calls a protocol's class
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,  # uvicorn's messages go to the gateway's own log
        log_level="error",  # its warnings are about what clients did, which the request log records
        access_log=False,
        server_header=False,
        headers=[NOSNIFF],
        date_header=True,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=settings.server.keep_alive_s,
        timeout_graceful_shutdown=int(settings.server.drain_timeout_s) + _AFTER_DRAIN_S,
    )


def _connections(settings: Settings) -> ConnectionFactory:
    server = settings.server
    limits = ConnectionLimits(
        max_head_bytes=server.max_head_bytes,
        max_head_fields=server.max_head_fields,
        head_timeout_s=server.head_timeout_s,
        write_timeout_s=server.client_write_timeout_s,
        max_connections=server.max_connections,
        max_connections_per_address=server.max_connections_per_address,
        max_unverified_bytes=server.max_unverified_bytes,
    )
    return ConnectionFactory(limits, ClientAddresses(server.trusted_proxies))


def bind(settings: Settings) -> socket.socket:
    """Opens the listening socket. Raises OSError if the address is not available."""
    return bound(settings.server.host, settings.server.port)


def bound(host: str, port: int) -> socket.socket:
    """Opens a listening socket that worker processes may inherit. Raises OSError if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(listener)  # connections inherit it
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.set_inheritable(True)
    except OSError:
        listener.close()
        raise
    return listener


def run(settings: Settings, config_path: Path | None, *listeners: socket.socket) -> int:
    """Serves until SIGINT or SIGTERM, on the main socket and on the one for admin.port. Returns the exit code."""
    keep_large_memory_apart()
    if settings.server.workers == 1:
        log = configure_logging(settings.log)
        load = partial(load_settings, config_path) if config_path is not None else None
        server = Server(server_config(settings, build_app(settings, log, load=load, on_started=calm_collector)))
        server.run(sockets=list(listeners))
        return 0 if server.started else 1
    if config_path is not None:
        os.environ["GATEWAY_CONFIG"] = str(config_path.absolute())
    with directory_for_workers(settings.store.data_dir) as directory:
        os.environ[METRICS_DIR] = str(directory.absolute())
        configure_logging(settings.log)
        end_s = max_delay_s(settings) + settings.server.drain_timeout_s + 2 * _AFTER_DRAIN_S
        supervisor = Supervisor(server_config(settings, "gateway.server:create_worker"), list(listeners), end_s)
        supervisor.run()
    return 1 if supervisor.failed else 0


class Server(uvicorn.Server):
    """uvicorn's server with another shutdown: it stops listening shortly before it closes idle connections.

    A reverse proxy may open a connection an instant before it sends a request on it. If that connection were closed in
    between, the request would be lost, because a proxy does not repeat a POST. Nothing that waits to be accepted when
    listening ends is left behind, and what was accepted may send its first request.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops the server when all requests have ended or the deadline has passed."""
        loop = asyncio.get_running_loop()
        kept = [
            socket.socket(fileno=os.dup(listening.fileno()))
            for listening in sockets or [one for server in self.servers for one in server.sockets]
        ]
        for closing in (*self.servers, *(sockets or ())):
            closing.close()
        await asyncio.sleep(0)  # the event loop has let go of its own
        for listening in kept:
            for accepted in _accepted(listening):
                await loop.connect_accepted_socket(self._connection, sock=accepted)
        until_s = loop.time() + _MAX_LINGER_S
        await asyncio.sleep(_LINGER_S)
        while loop.time() < until_s and any(map(_is_fresh, self.server_state.connections)):  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(_LOOK_EVERY_S)
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _accepted(listening: socket.socket) -> list[socket.socket]:
    """Everything that waits, and then nobody listens any more. What came between the two would be reset."""
    found = []
    with listening:
        listening.settimeout(0)
        with contextlib.suppress(OSError):  # nothing waits any more
            while True:
                found.append(listening.accept()[0])
    for accepted in found:
        accepted.settimeout(0)
    return found


def _is_fresh(connection: object) -> bool:
    """Whether a client has connected and sent no request yet."""
    return isinstance(connection, ClientConnection) and connection.is_fresh


class Worker(Process):
    """A worker process, with the server above."""

    @property
    def server(self) -> Server:
        """Its server, once in each process."""
        if self._server is None:
            self._server = Server(config=self.config)
        return cast("Server", self._server)


class Supervisor(Multiprocess):
    """uvicorn's supervisor with four differences.

    - On SIGHUP, workers reload their configuration. They are not replaced, and their streams go on.
    - A worker may be silent for `HUNG_S` instead of 5 s: on a busy machine a start takes longer than 5 s.
    - A worker that cannot start (the file was edited meanwhile) ends the others only if no worker ever served.
    - At shutdown, a worker that hangs is killed instead of waited for.

    Mutable: `failed` (no worker could start), `_served` (some worker did), and the times of the last heartbeats and of
    the next replacements.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], end_s: float) -> None:
        super().__init__(config, sockets)
        os.environ[RUN_VARIABLE] = os.urandom(8).hex()
        os.environ.pop(LOST_VARIABLE, None)
        self.failed = False
        self._end_s = end_s
        self._served = False
        self._heard_s: dict[int | None, float] = {}
        self._replace_s: dict[int | None, float] = {}
        self._log = structlog.get_logger("gateway.server")

    def init_processes(self) -> None:
        """Starts the workers."""
        for _ in range(self.processes_num):
            worker = Worker(self.config, self.sockets)
            worker.start()
            self.processes.append(worker)

    def keep_subprocess_alive(self) -> None:
        """Replaces workers that have died or hang.

        It does not block, so that signals are handled between two rounds.
        """
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
                self.processes[place] = Worker(self.config, self.sockets)
                self.processes[place].start()

    def _last_heartbeat_s(self, worker: Process, now_s: float) -> float:
        """Returns the time of a worker's last heartbeat. Its start counts as one."""
        with contextlib.suppress(OSError, EOFError):  # the worker has died
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
        # The next worker voids what this one held. Its lease would report its death only seconds later.
        os.environ[LOST_VARIABLE] = " ".join(
            [*os.environ.get(LOST_VARIABLE, "").split()[-_MAX_LOST_WORKERS:], str(worker.pid)]
        )
        self._log.error("worker_hung" if hangs else "worker_died", pid=worker.pid, exit_code=worker.exitcode)
        cannot_start = worker.exitcode == STARTUP_FAILURE
        self._replace_s[worker.pid] = now_s + RETRY_S if cannot_start else now_s
        if cannot_start and not self._served:
            self.failed = True
            self.should_exit.set()

    def terminate_all(self) -> None:
        """Sends SIGTERM to the workers that are running.

        While this process had the socket, too, connections would wait that no worker accepts any more.
        """
        for listening in self.sockets:
            listening.close()
        for worker in self.processes:
            if worker.pid not in self._replace_s:
                worker.terminate()

    def join_all(self) -> None:
        """Waits for the workers to end. Kills those that have not drained within `end_s`."""
        deadline_s = time.monotonic() + self._end_s
        for worker in self.processes:
            worker.process.join(max(0.0, deadline_s - time.monotonic()))
            if worker.process.is_alive():
                worker.kill()
            worker.process.join()

    def handle_hup(self) -> None:
        """Passes SIGHUP on to the workers."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


def create_worker() -> Gateway:
    """Builds the application of a worker process, with settings from GATEWAY_CONFIG and the environment.

    Raises SystemExit if the configuration is invalid: the command line has checked it, but it may have changed since. A
    worker whose supervisor was killed drains and ends. Otherwise it would hold the port, and nobody could stop it.
    """
    keep_large_memory_apart()
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        threading.Thread(target=_end_with, args=(supervisor,), name="supervisor", daemon=True).start()
    try:
        path = os.environ.get("GATEWAY_CONFIG")
        load = partial(load_settings, Path(path) if path else None)
        settings = load()
    except SettingsError as error:
        configure_logging(LogSettings(format="json", level="error"))
        structlog.get_logger("gateway.server").error("worker_not_started", reason="; ".join(error.problems))
        raise SystemExit(STARTUP_FAILURE) from None
    return build_app(settings, configure_logging(settings.log), load=load, on_started=calm_collector)


def calm_collector() -> None:
    """Configures the garbage collector once everything is built: it skips what lives to the end, and runs rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def keep_large_memory_apart() -> None:
    """Has the C library take large memory from the system, and give it back when it is free (mallopt(3)).

    Else glibc mixes it with small pieces after the first large body: it stays with the process, and grows by copying,
    which takes the event loop's time. Other C libraries do so by themselves, or have no such option.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: there is no C library to ask on Windows
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, LARGE_MEMORY_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, SPARE_MEMORY_BYTES)
        library.mallopt(_M_ARENA_MAX, 1)  # otherwise each thread keeps as much for itself


def _end_with(supervisor: BaseProcess) -> None:
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
