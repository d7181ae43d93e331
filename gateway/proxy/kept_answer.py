"""The interface through which a relay passes an answer that is being stored."""

from __future__ import annotations

from typing import Protocol


class KeptAnswer(Protocol):
    """An answer that is being stored. Its methods return what the client is shown."""

    async def whole(self, body: bytes) -> bytes:
        """Returns a complete answer as the client is shown it."""

    async def end(self, closing: bytes) -> bytes:
        """Returns the end of a stream, with the gateway's own closing events if there are any."""

    async def broken(self, closing: bytes) -> bytes:
        """Returns the gateway's own closing events, after a stream that broke off."""
