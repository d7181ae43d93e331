"""What of a request's body has not been written yet: in memory, or on disk, from where it comes piece by piece."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from gateway.concurrency.disk_body import SentBody
from gateway.errors import GatewayError
from gateway.types import Body

_NOTHING: Final = memoryview(b"")


class UnsentBody:
    """One request's, on one connection. At most one piece of `piece_bytes` of a body on disk is in memory.

    State that changes: `_here`, what can be written at once; `_at`, how far a body on disk was read; `_is_asked`.
    """

    __slots__ = ("_at", "_here", "_is_asked", "_on_disk", "_piece_bytes")

    def __init__(self, body: Body | SentBody, piece_bytes: int) -> None:
        self._on_disk = body if isinstance(body, SentBody) else None
        self._here = _NOTHING if isinstance(body, SentBody) else memoryview(body)
        self._at = 0
        self._is_asked = False
        self._piece_bytes = piece_bytes

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._here) or (self._on_disk is not None and self._at < len(self._on_disk))

    def take(self, most: int, then: Callable[["UnsentBody", GatewayError | None], None]) -> memoryview:
        """The next bytes, at most so many; none where they are being read.

        `then` is called when they are there, or with the error if they cannot be read.
        """
        if not self._here and not self._is_asked and self._on_disk is not None and self:
            self._is_asked = True
            self._on_disk.ask(self._at, self._piece_bytes, partial(self._come, then))
        piece, self._here = self._here[:most], self._here[most:]
        return piece

    def _come(self, then: Callable[["UnsentBody", GatewayError | None], None], read: "asyncio.Future[bytes]") -> None:
        if read.cancelled():  # the gateway stops
            return
        self._is_asked = False
        error = read.exception()
        if error is None:
            self._here = memoryview(read.result())
            self._at += len(self._here)
            then(self, None)
        elif isinstance(error, GatewayError):
            then(self, error)
        else:
            raise error
