"""`gateway serve` and `gateway simulate`: the set-up around a server, from the outside in.

    until_stopped     SIGINT and SIGTERM end it with exit code 0
      listening       the socket is opened first, so that no store is started if the port is in use
        stored        the embedded Valkey, if the settings ask for it; otherwise a check of the store and the spool
          simulated   the built-in simulator, if an upstream asks for it
            server.run  until the signal

Flags and the addresses of store and simulator are passed in the environment, from which worker processes read the same
settings.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

import click

from gateway import server, simulator
from gateway.cli.check import load
from gateway.cli.errors import CliError
from gateway.cli.simulated import simulated
from gateway.cli.store_check import store_refusal
from gateway.config.settings import Settings
from gateway.ledger.spool import SPOOL
from gateway.store.embedded import EmbeddedStore, EmbeddedStoreError
from gateway.store.url import EMBEDDED

_LOOPBACK: Final = MappingProxyType({"0.0.0.0": "127.0.0.1", "::": "::1"})  # noqa: S104 - nothing listens on these


def serve(config: Path, *, host: str | None, port: int | None, workers: int | None) -> None:
    """Serves until it is stopped. Raises CliError if it cannot start."""
    flags = {"HOST": host, "PORT": port, "WORKERS": workers}
    os.environ.update({f"GATEWAY_SERVER__{name}": str(value) for name, value in flags.items() if value is not None})
    settings = load(config)
    code = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(until_stopped())
        listeners = [stack.enter_context(listening(settings))]
        if settings.admin.port is not None:
            listeners.append(stack.enter_context(_listening(settings.admin.host, settings.admin.port, "admin.port")))
        settings = stack.enter_context(stored(settings))
        settings = stack.enter_context(simulated(settings))
        count = settings.server.workers
        click.echo(f"Gateway: {url_of(listeners[0])}/v1" + (f" ({count} workers)" if count > 1 else ""))
        code = server.run(settings, config, *listeners)
    sys.exit(code)


def simulate(host: str, port: int, *, post_only: bool) -> None:
    """Runs the simulator until it is stopped."""
    with until_stopped():
        simulator.run(host, port, post_only=post_only)


@contextlib.contextmanager
def until_stopped() -> Iterator[None]:
    """Treats SIGTERM like Ctrl-C: all blocks inside are left in order, and the exit code is 0."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        yield


def listening(settings: Settings) -> contextlib.AbstractContextManager[socket.socket]:
    """Opens the listening socket. Raises CliError if the address is not available."""
    return _listening(settings.server.host, settings.server.port, "--port")


@contextlib.contextmanager
def _listening(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    try:
        listener = server.bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CliError(
                f"port {port} of {host} is in use; end what uses it, or take another with {setting}"
            ) from None
        raise CliError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    with listener:
        yield listener


@contextlib.contextmanager
def stored(settings: Settings) -> Iterator[Settings]:
    """Yields the settings with the address of a store that runs or may start later.

    Raises CliError if it refuses the gateway.
    """
    with contextlib.ExitStack() as stack:
        if settings.store.url == EMBEDDED:
            try:
                embedded = stack.enter_context(EmbeddedStore(settings.store.data_dir))
            except EmbeddedStoreError as error:
                raise CliError(str(error)) from None
            os.environ["GATEWAY_STORE__URL"] = embedded.url
            store = settings.store.model_copy(update={"url": embedded.url})
            settings = settings.model_copy(update={"store": store})
        else:
            _try_spool(settings.store.data_dir)
        if refusal := store_refusal(settings):
            raise CliError(f"the store refuses the gateway: {refusal}")
        yield settings


def _try_spool(data_dir: Path) -> None:
    """Raises CliError if settlements could not be spooled.

    Checked at the start, this costs no settlement in an outage.
    """
    directory = data_dir / SPOOL
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise CliError(f"cannot use the data directory {data_dir}: {error.strerror or error}") from None


def url_of(listener: socket.socket) -> str:
    """Returns the URL of a socket, with its real port. One that listens everywhere is reached on this machine."""
    host, port = listener.getsockname()[:2]
    host = _LOOPBACK.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
