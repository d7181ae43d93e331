"""What a connection waits for from its client, and for how long: one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum

from gateway.concurrency.deadline import Deadline


class Wait(IntEnum):
    """What a connection waits for."""

    NOTHING = 0
    HEAD = 1  # to be whole
    NEXT = 2  # request, or the taking of an answer's rest
    LINGER = 3  # for what is sent after a refusal
    PROGRESS = 4  # of a client that does not take its answer


class Patience:
    """Ends a connection whose client does nothing for too long.

    `on_late_head` is called instead where a head is not whole in time. A client that takes some of its answer's rest
    between two looks is given more time: `write_timeout_s` for each.
    State that changes: `waits_for`, which may be set to NOTHING at any time; what was unsent at the last look.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        write_timeout_s: float,
        on_late_head: Callable[[], None],
    ) -> None:
        self.waits_for = Wait.NOTHING
        self._transport = transport
        self._write_timeout_s = write_timeout_s
        self._on_late_head = on_late_head
        self._unsent = 0
        self._deadline = Deadline(loop, self._over)

    def wait(self, what: Wait, delay_s: float) -> None:
        """From now on it waits for this."""
        self.waits_for = what
        self._unsent = self._transport.get_write_buffer_size() if what is Wait.PROGRESS else 0
        self._deadline.set(delay_s)

    def close(self) -> None:
        """No timer outlives its connection."""
        self.waits_for = Wait.NOTHING
        self._deadline.close()

    def _over(self) -> None:
        """The time of what was waited for is over."""
        if self.waits_for is Wait.HEAD:
            self._on_late_head()
        elif self.waits_for is not Wait.NOTHING:
            self.end_or_go_on()

    def end_or_go_on(self) -> None:
        """The end, unless the client has taken some of its answer's rest since the last look."""
        before, unsent = self._unsent, self._transport.get_write_buffer_size()
        if not unsent:
            self._transport.close()
        elif before and unsent >= before:
            self._transport.abort()
        else:
            self.wait(self.waits_for, self._write_timeout_s)
            self._unsent = unsent
