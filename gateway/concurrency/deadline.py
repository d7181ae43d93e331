"""A deadline that is moved far more often than it passes: one timer, which sets itself again where it fires early.

deadline.set(delay_s)     a later time costs no new timer: the running one looks again when it fires
deadline.close()          the action is not called any more
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `callback` when the time is over that was set last. State that changes: that time; the timer."""

    __slots__ = ("_callback", "_deadline_s", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """From now on `delay_s` are left."""
        self._deadline_s = deadline_s = self._loop.time() + delay_s
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(deadline_s, self._on_timer)
        elif timer.when() > deadline_s:
            timer.cancel()
            self._timer = self._loop.call_at(deadline_s, self._on_timer)

    def close(self) -> None:
        """For good, and with the timer: nobody is held by it any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline_s:
            self._timer = self._loop.call_at(self._deadline_s, self._on_timer)
        else:
            self._callback()
