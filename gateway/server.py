"""uvicorn, as this gateway needs it: one process, or `server.workers` of them under uvicorn's supervisor.

    bind(settings)                     the listening socket, before anything else is started
    bound(host, port)                  the same for admin.port
    run(settings, config, listeners)   serves until SIGINT or SIGTERM
    create_worker()                    a worker process's application; it ends when its supervisor is gone

The drain is the application's own (`app.py`): uvicorn waits for what still runs, a little longer than the drain takes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import uvicorn
from uvicorn.supervisors import Multiprocess

from gateway.app import Gateway, build_app, create_app
from gateway.front import NOSNIFF
from gateway.inbound import BoundedProtocol
from gateway.metrics.sharing import VARIABLE as METRICS_DIR
from gateway.metrics.sharing import directory_for_workers
from gateway.settings import Settings, load_settings
from gateway.wire import GatewayProtocol

_AFTER_DRAIN_S: Final = 5
_LINGER_S: Final = 0.5
_BACKLOG: Final = 4096


class Protocol(BoundedProtocol, GatewayProtocol):
    """Uvicorn's protocol with both of the gateway's additions."""


def server_config(settings: Settings, app: Gateway | str) -> uvicorn.Config:
    """Uvicorn's settings. `app` is the import string of a factory where workers are separate processes."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=settings.server.host,
        port=settings.server.port,
        workers=settings.server.workers,
        http=partial(  # type: ignore[arg-type]  # uvicorn calls it as it calls the class
            Protocol,
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
        Supervisor(server_config(settings, "gateway.server:create_worker"), list(listeners)).run()
    return 0


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
    """Uvicorn's, but for SIGHUP: workers read their configuration again; they are not replaced, streams and all."""

    def handle_hup(self) -> None:
        """Passes SIGHUP on."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)


def create_worker() -> Gateway:
    """The application in a worker process: settings from GATEWAY_CONFIG and the environment.

    A worker whose supervisor was killed drains and ends: else it would go on holding the port, with nobody to stop it.
    """
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        threading.Thread(target=_end_with, args=(supervisor,), name="supervisor", daemon=True).start()
    return create_app()


def _end_with(supervisor: BaseProcess) -> None:
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
