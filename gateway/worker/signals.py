"""What signals do to a worker.

SIGHUP             reloads the configuration
SIGTERM, SIGINT    /readyz answers 503; after `server.shutdown_delay_s` the drain starts, then the server stops

With `shutdown_delay_s = "auto"` a gateway continues while requests arrive, for at most `MAX_DELAY_S`. A reverse proxy
without health checks notices only by a refused connection that a gateway is gone, and then avoids it for a while. If
two gateways are replaced in turn, the first must be in use again before the second refuses connections. Ctrl-C has no
such delay.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Final, Protocol

from gateway.config.settings import Settings
from gateway.errors import GatewayError
from gateway.proxy.handler import RequestHandler
from gateway.websocket.sockets import Sockets
from gateway.worker.control_loop import ControlLoop

MAX_DELAY_S: Final = 12.0
"""Longer than nginx avoids a server that has refused a connection (`fail_timeout`, 10 s)."""
QUIET_S: Final = 3.0
"""After this time without a request, no client sends requests any more."""
_LOOK_EVERY_S: Final = 0.1
_Handler = Callable[[int, FrameType | None], Any] | int | None


def max_delay_s(settings: Settings) -> float:
    """The longest time between SIGTERM and the drain."""
    delay_s = settings.server.shutdown_delay_s
    return MAX_DELAY_S if delay_s == "auto" else delay_s


class Parts(Protocol):
    """The parts that signals act on. `services.Services` has them."""

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


class _Shutdown:
    """What SIGTERM and SIGINT start. `before`: the handlers of the server, which stop it."""

    def __init__(
        self,
        services: Parts,
        loop: asyncio.AbstractEventLoop,
        before: Mapping[signal.Signals, _Handler],
        on_leave: Callable[[], None],
    ) -> None:
        self._on_leave = on_leave
        self._services = services
        self._loop = loop
        self._before = before

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """The first one starts the delay, a second one ends it."""
        step = self._stop if self._services.leaving else self._begin
        self._services.leaving = True
        self._on_leave()
        self._loop.call_soon_threadsafe(step, number)

    def _begin(self, number: int) -> None:
        delay_s, now_s = self._services.settings.server.shutdown_delay_s, self._loop.time()
        if delay_s != "auto":
            self._loop.call_later(delay_s, self._stop_at_last, number)
        elif number == signal.SIGINT or not self._services.handler.request_count:
            self._stop_at_last(number)
        else:
            self._look(number, now_s + MAX_DELAY_S, self._services.handler.request_count, now_s + QUIET_S)

    def _look(self, number: int, until_s: float, request_count: int, quiet_at_s: float) -> None:
        """Whether requests still come. `request_count`: those that had, until `QUIET_S` before `quiet_at_s`."""
        now_s = self._loop.time()
        if self._services.handler.request_count != request_count:
            request_count, quiet_at_s = self._services.handler.request_count, now_s + QUIET_S
        if now_s >= min(until_s, quiet_at_s):
            self._stop_at_last(number)
        else:
            self._loop.call_later(_LOOK_EVERY_S, self._look, number, until_s, request_count, quiet_at_s)

    def _stop_at_last(self, number: int) -> None:
        if not self._services.handler.stopping:  # a second signal may have started the drain already
            self._stop(number)

    def _stop(self, number: int) -> None:
        self._services.sockets.drain()
        self._services.handler.drain(self._services.settings.server.drain_timeout_s)
        handler = self._before[signal.Signals(number)]
        if callable(handler):
            handler(number, None)


@contextlib.contextmanager
def drain_on_signal(services: Parts, on_leave: Callable[[], None]) -> Iterator[None]:
    """Starts the drain on SIGTERM and SIGINT, after `server.shutdown_delay_s`, and then stops the server.

    Until the drain starts, /readyz answers 503 and requests are served as usual, so that a load balancer removes this
    gateway before any request is refused. A second signal ends the delay. `on_leave` is called at the first one.

    The server tells its application of a shutdown only after every connection has ended. A stream would delay that.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only; whoever runs the gateway in another thread calls `drain`
        # itself
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    shutdown = _Shutdown(services, asyncio.get_running_loop(), before, on_leave)
    for number in before:
        signal.signal(number, shutdown.on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
