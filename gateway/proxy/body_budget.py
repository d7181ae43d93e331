"""How much the bodies of requests may take together: of one worker's memory, and of its disk.

A body is held until its request has ended, because another upstream may have to be asked. Those of at most
`concurrency.off_loop.LONG_BYTES` are not counted: the number of connections bounds them.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import GatewayError

_WAIT_MS: Final = 1000


class BodyBudget:
    """One worker's. State that changes: `held_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.held_bytes = 0
        self._max_bytes = max_bytes

    def take(self, size_bytes: int) -> None:
        """Counts a body that is going to be read. Raises GatewayError `too_many_bodies` beyond the bound.

        One body alone always fits.
        """
        if self.held_bytes and self.held_bytes + size_bytes > self._max_bytes:
            raise GatewayError(
                "too_many_bodies",
                "This gateway holds as many large request bodies as it may at once. Try again.",
                wait_ms=_WAIT_MS,
                explain={"limit": self._max_bytes},
            )
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """A body, or a part of what was taken for it, is not held any more."""
        self.held_bytes -= size_bytes
