"""What signals do to a worker.

SIGHUP             reloads the configuration
SIGTERM, SIGINT    /readyz answers 503; after `server.shutdown_delay_s` the drain starts, then the server stops
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

from gateway.config.settings import Settings
from gateway.errors import GatewayError
from gateway.proxy.handler import RequestHandler
from gateway.websocket.sockets import Sockets
from gateway.worker.control_loop import ControlLoop


class Parts(Protocol):
    """The parts that signals act on. `app.Services` has them."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    handler: RequestHandler
    sockets: Sockets
    control_loop: ControlLoop
    leaving: bool


@contextlib.contextmanager
def reload_on_signal(services: Parts) -> Iterator[None]:
    """Reloads the configuration on SIGHUP.

    If the file is wrong, the log says why and the old configuration stays in force.
    """
    number = getattr(signal, "SIGHUP", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield  # Windows has no such signal
        return
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        with contextlib.suppress(GatewayError):  # the reload has logged it
            await services.control_loop.reload()

    def start() -> None:
        task = asyncio.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    before = signal.signal(number, lambda _number, _frame: services.loop.call_soon_threadsafe(start))
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def drain_on_signal(services: Parts) -> Iterator[None]:
    """Starts the drain on SIGTERM and SIGINT, after `server.shutdown_delay_s`, and then stops the server.

    Until the drain starts, /readyz answers 503 and requests are served as usual, so that a load balancer removes this
    gateway before any request is refused. A second signal ends the delay.

    The server tells its application of a shutdown only after every connection has ended. A stream would delay that.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only; whoever runs the gateway in another thread calls `drain`
        # itself
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if services.leaving:
            loop.call_soon_threadsafe(stop, number)
        else:
            services.leaving = True
            loop.call_soon_threadsafe(loop.call_later, services.settings.server.shutdown_delay_s, stop_at_last, number)

    def stop_at_last(number: int) -> None:
        if not services.handler.stopping:  # a second signal may have started the drain already
            stop(number)

    def stop(number: int) -> None:
        services.sockets.drain()
        services.handler.drain(services.settings.server.drain_timeout_s)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, None)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
