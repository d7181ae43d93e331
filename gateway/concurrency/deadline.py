"""A timer for a deadline that is moved far more often than it expires.

deadline.set(delay_s)     moving the deadline back creates no timer: the running timer fires and is set again
deadline.set_at(when_s)   the same, as the loop's time
deadline.unset()          removes the deadline; costs nothing, because the timer stays until it fires
deadline.close()          the callback is not called any more
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """Calls `callback` when the deadline that was set last has passed. Mutable: the deadline and its timer."""

    __slots__ = ("_callback", "_deadline_s", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._deadline_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """Moves the deadline to `delay_s` from now."""
        self.set_at(self._loop.time() + delay_s)

    def set_at(self, deadline_s: float) -> None:
        """Moves the deadline to `deadline_s`, in the loop's time."""
        self._deadline_s = deadline_s
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(deadline_s, self._on_timer)
        elif timer.when() > deadline_s:
            timer.cancel()
            self._timer = self._loop.call_at(deadline_s, self._on_timer)

    def unset(self) -> None:
        """Removes the deadline until the next `set`."""
        self._deadline_s = math.inf

    @property
    def is_set(self) -> bool:
        """Whether a deadline is set."""
        return self._deadline_s != math.inf

    def close(self) -> None:
        """Cancels the timer for good and drops the references to it and to the callback. Idempotent."""
        self._deadline_s = math.inf
        self._callback = _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        deadline_s = self._deadline_s
        if deadline_s == math.inf:
            return
        if self._loop.time() < deadline_s:
            self._timer = self._loop.call_at(deadline_s, self._on_timer)
        else:
            self._deadline_s = math.inf
            self._callback()


def _nothing() -> None:
    """The callback of a closed deadline."""
