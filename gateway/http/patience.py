"""The one timeout of a connection: what it waits for from its client, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum

from gateway.concurrency.deadline import Deadline


class Wait(IntEnum):
    """What a connection waits for."""

    NOTHING = 0
    HEAD = 1  # the rest of a head
    NEXT = 2  # the next request, or the client reading the rest of an answer
    LINGER = 3  # the rest of a body that was refused
    PROGRESS = 4  # a client that does not read its answer


class Patience:
    """Closes a connection whose client does nothing for too long.

    If a head is incomplete in time, `on_late_head` is called instead. A client that reads a part of its answer before
    the timeout is given another `write_timeout_s`.
    Mutable: `waits_for`, which others may set to NOTHING at any time, and the number of unsent bytes when the current
    timeout began.
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
        """Waits for this from now on."""
        self.waits_for = what
        self._unsent = self._transport.get_write_buffer_size() if what is Wait.PROGRESS else 0
        self._deadline.set(delay_s)

    def close(self) -> None:
        """Ends the timer."""
        self.waits_for = Wait.NOTHING
        self._deadline.close()

    def _over(self) -> None:
        """The timeout has passed."""
        if self.waits_for is Wait.HEAD:
            self._on_late_head()
        elif self.waits_for is not Wait.NOTHING:
            self.end_or_go_on()

    def end_or_go_on(self) -> None:
        """Closes the connection, unless the client has read a part of its answer since the timeout began."""
        before, unsent = self._unsent, self._transport.get_write_buffer_size()
        if not unsent:
            self._transport.close()
        elif before and unsent >= before:
            self._transport.abort()
        else:
            self.wait(self.waits_for, self._write_timeout_s)
            self._unsent = unsent
