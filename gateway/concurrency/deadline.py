"""A timer for a deadline that moves far more often than it passes.

deadline.set(delay_s)     moving the deadline back creates no timer: the running timer fires and is set again
deadline.close()          the callback is not called any more
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `callback` when the deadline that was set last has passed. Mutable: the deadline and its timer."""

    __slots__ = ("_callback", "_deadline_s", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """Moves the deadline to `delay_s` from now."""
        self._deadline_s = deadline_s = self._loop.time() + delay_s
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(deadline_s, self._on_timer)
        elif timer.when() > deadline_s:
            timer.cancel()
            self._timer = self._loop.call_at(deadline_s, self._on_timer)

    def close(self) -> None:
        """Cancels the timer for good and drops the references to it. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline_s:
            self._timer = self._loop.call_at(self._deadline_s, self._on_timer)
        else:
            self._callback()
