"""Bounds the bytes that the bodies of all requests take together, in one worker's memory or on its disk.

A body is kept until an answer is passed on, because another upstream may have to be tried. Bodies of at most
`concurrency.off_loop.LONG_BYTES` are not counted: the number of connections bounds them.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import GatewayError

_WAIT_MS: Final = 1000


class BodyBudget:
    """The budget of one worker. State that changes: `held_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.held_bytes = 0
        self._max_bytes = max_bytes

    def take(self, size_bytes: int) -> None:
        """Reserves space for a body that will be read. Raises GatewayError `too_many_bodies` beyond the bound.

        A single body always fits.
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
        """Releases space that was reserved, or a part of it."""
        self.held_bytes -= size_bytes
