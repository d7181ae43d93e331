"""Ends a request from outside for a named reason: its client left, its time is over, or the gateway stops.

    with CancelScope() as scope:        in the request's task
        await anything
    scope.cancel(Reason.CLIENT_LEFT)    from a callback: the await ends, and `with` raises ScopeCancelled(reason)

It works like `asyncio.timeout`: the task is cancelled, and the scope takes the cancellation back. No second task is
needed, and a cancellation from elsewhere is passed on.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from types import TracebackType
from typing import Self


class Reason(StrEnum):
    """Why a request was ended."""

    CLIENT_LEFT = "client_left"
    TIMED_OUT = "timed_out"
    SHUT_DOWN = "shut_down"
    CANCELLED = "cancelled"  # a background response, by a client
    ENDED = "ended"  # its answer has ended, but the upstream's connection has not


class ScopeCancelled(Exception):
    """Raised when the scope was cancelled. `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class CancelScope:
    """The scope of one request.

    `deadline_s` is the event loop's time at which it is cancelled, for whoever watches deadlines.
    """

    __slots__ = ("_active", "_task", "_timer", "deadline_s", "reason")

    def __init__(self, deadline_s: float = float("inf"), loop: asyncio.AbstractEventLoop | None = None) -> None:
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a CancelScope must be entered inside a task")
        self._task = task
        self._active = False
        self._timer: asyncio.TimerHandle | None = None
        self.deadline_s = deadline_s
        self.reason: Reason | None = None

    def cancel(self, reason: Reason) -> None:
        """Cancels the scope. The first reason is kept; later calls do nothing."""
        if self.reason is None:
            self.reason = reason
            if self._active:
                self._task.cancel()

    def cancel_later(self, reason: Reason, delay_s: float) -> None:
        """Cancels the scope after `delay_s`, unless it has ended by then."""
        if self._timer is None:
            self._timer = self._task.get_loop().call_later(delay_s, self.cancel, reason)

    @property
    def ends_later(self) -> bool:
        """Whether `cancel_later` was called."""
        return self._timer is not None

    def __enter__(self) -> Self:
        """Raises ScopeCancelled at once if the scope was cancelled before it was entered."""
        if self.reason is not None:
            raise ScopeCancelled(self.reason)
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
            raise ScopeCancelled(self.reason) from None
