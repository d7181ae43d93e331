"""What a relay needs of whoever keeps the response that it passes on."""

from __future__ import annotations

from typing import Protocol


class KeptAnswer(Protocol):
    """An answer on its way into the store: gives what the client is to be shown of it."""

    async def whole(self, body: bytes) -> bytes:
        """A whole answer."""

    async def end(self, closing: bytes) -> bytes:
        """The end of a stream, and the gateway's own closing events, if there are any."""

    async def broken(self, closing: bytes) -> bytes:
        """The gateway's own closing events."""
