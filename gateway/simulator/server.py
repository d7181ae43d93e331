"""The simulator on a socket: `run` for the command line, `serve` for a program with its own loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Final

import uvicorn

from gateway.simulator.app import build_simulator

_BACKLOG: Final = 2048
_BROKEN_OFF: Final = "ASGI callable returned without completing response."


def _is_logged(entry: logging.LogRecord) -> bool:
    # A cut answer is what the caller requested; the server would report each one as an error.
    return entry.getMessage() != _BROKEN_OFF


async def serve(listener: socket.socket, *, post_only: bool = False) -> None:
    """Serves on a bound socket until the task is cancelled or the process gets SIGINT or SIGTERM."""
    config = uvicorn.Config(
        build_simulator(post_only=post_only),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    # asyncio does this only for sockets that name their protocol. Otherwise head and body are 40 ms apart (delayed
    # ACK).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    logging.getLogger("uvicorn.error").addFilter(_is_logged)
    server = uvicorn.Server(config)
    try:
        await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        if server.started:
            await server.shutdown([listener])
        raise


def run(host: str, port: int, *, post_only: bool = False) -> None:
    """Serves until interrupted, and prints its address. Exits with 1 if the address is not available."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"Simulator: cannot listen on {host} port {port}: {error}\n")
        raise SystemExit(1) from error
    name = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"Simulator: OpenResponses at http://{name}:{listener.getsockname()[1]}/v1\n")
    sys.stdout.flush()
    try:
        asyncio.run(serve(listener, post_only=post_only))
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
