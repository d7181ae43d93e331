"""Ends a request from outside, for a named reason: its client left, its time is over, the gateway stops.

    with Interrupt() as interrupt:      in the request's task
        await anything
    interrupt.fire(Reason.CLIENT_LEFT)  from a callback: the await inside ends, and `with` raises Interrupted(reason)

Built as `asyncio.timeout` is: the task cancels itself and takes the cancellation back, so that no second task is needed
and a cancellation from elsewhere stays one. `DisconnectWatch` steps the server's `receive()` by hand for the same
reason: a task for each request would only wait for a message that seldom comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, cast


class Reason(StrEnum):
    """Why a request was ended."""

    CLIENT_LEFT = "client_left"
    TIMED_OUT = "timed_out"
    SHUT_DOWN = "shut_down"


class Interrupted(Exception):
    """The request was ended from outside."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Interrupt:
    """One request's handle. `deadline_s`: the loop's time at which it is over, for whoever watches deadlines."""

    __slots__ = ("_active", "_task", "_timer", "deadline_s", "reason")

    def __init__(self, deadline_s: float = float("inf"), loop: asyncio.AbstractEventLoop | None = None) -> None:
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("an Interrupt belongs to a task")
        self._task = task
        self._active = False
        self._timer: asyncio.TimerHandle | None = None
        self.deadline_s = deadline_s
        self.reason: Reason | None = None

    def fire(self, reason: Reason) -> None:
        """Ends the request. The first reason stays; later calls do nothing."""
        if self.reason is None:
            self.reason = reason
            if self._active:
                self._task.cancel()

    def fire_later(self, reason: Reason, delay_s: float) -> None:
        """Fires after `delay_s` if the request has not ended by itself before."""
        if self._timer is None:
            self._timer = self._task.get_loop().call_later(delay_s, self.fire, reason)

    @property
    def ends_later(self) -> bool:
        """Whether `fire_later` was called."""
        return self._timer is not None

    def __enter__(self) -> Self:
        """Raises Interrupted at once if it was fired before."""
        if self.reason is not None:
            raise Interrupted(self.reason)
        self._active = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        if self._timer is not None:
            self._timer.cancel()
        if self.reason is None:
            return
        outside = self._task.uncancel() > 0
        if kind is asyncio.CancelledError and not outside:
            raise Interrupted(self.reason) from None


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
