"""Tells when the client of an ASGI server has disconnected, without a task.

`DisconnectWatch` steps the server's `receive()` by hand: a task per request would only wait for a message that seldom
comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast


class DisconnectWatch:
    """Calls back when the client is gone. For use after the request's body has been read, until `close`."""

    __slots__ = ("_closed", "_coroutine", "_on_leave", "_receive", "_waits_for")

    def __init__(self, receive: Callable[[], Awaitable[Any]], on_leave: Callable[[], object]) -> None:
        self._receive = receive
        self._on_leave = on_leave
        self._closed = False
        self._waits_for: asyncio.Future[Any] | None = None
        self._coroutine: Coroutine[Any, Any, Any] = cast("Coroutine[Any, Any, Any]", receive())
        self._step(None)

    def _step(self, _: object) -> None:
        while not self._closed:
            try:
                future = self._coroutine.send(None)
            except StopIteration as stop:
                if stop.value["type"] == "http.disconnect":
                    self._closed = True
                    self._on_leave()
                    return
                self._coroutine = cast("Coroutine[Any, Any, Any]", self._receive())
            else:
                # What a Task does with the future that a coroutine yields: take it over, go on when it is done.
                future._asyncio_future_blocking = False  # noqa: SLF001 - asyncio's own protocol with a coroutine
                future.add_done_callback(self._step)
                self._waits_for = future
                return

    def close(self) -> None:
        """Stops watching. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._waits_for is not None:
                self._waits_for.remove_done_callback(self._step)
            self._coroutine.close()
