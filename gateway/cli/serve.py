"""`gateway serve` and `gateway simulate`: what surrounds a server, in order.

    until_stopped     SIGINT and SIGTERM end it with exit code 0
      listening       the socket first: a port in use must not start a store
        stored        the embedded Valkey, if the settings want it, which stops last; else a place for the spool
          server.run  until the signal

Flags and the store's address are put into the environment: worker processes read the same settings from there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import typer

from gateway import server, simulator
from gateway.cli.check import load, store_refusal
from gateway.cli.errors import CliError
from gateway.config.settings import Settings
from gateway.ledger.spool import SPOOL
from gateway.store.embedded import EmbeddedStore, EmbeddedStoreError
from gateway.store.url import EMBEDDED


def serve(config: Path, *, host: str | None, port: int | None, workers: int | None) -> None:
    """Serves until it is stopped. Raises CliError for whatever prevents it."""
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
        count = settings.server.workers
        typer.echo(f"Gateway: {url_of(listeners[0])}/v1" + (f" ({count} workers)" if count > 1 else ""))
        code = server.run(settings, config, *listeners)
    raise typer.Exit(code)


def simulate(host: str, port: int) -> None:
    """The simulator, until it is stopped."""
    with until_stopped():
        simulator.run(host, port)


@contextlib.contextmanager
def until_stopped() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does: everything inside is unwound, and that is a good end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        yield


def listening(settings: Settings) -> contextlib.AbstractContextManager[socket.socket]:
    """The bound socket. Raises CliError where the address cannot be had."""
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
    """The settings with the address of a store that runs, or that may come up. Raises CliError if it refuses us."""
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
    """Raises CliError where the settlements of an outage could not be kept: known now, it costs none."""
    directory = data_dir / SPOOL
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise CliError(f"cannot use the data directory {data_dir}: {error.strerror or error}") from None


def url_of(listener: socket.socket) -> str:
    """Where a socket listens; the real port, whatever was asked for."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
