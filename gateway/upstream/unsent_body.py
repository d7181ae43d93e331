"""The rest of a request's body that has not been written yet. A body on disk is read in pieces."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from gateway.concurrency.disk_body import SentBody
from gateway.errors import GatewayError
from gateway.types import Body

_NOTHING: Final = memoryview(b"")


class UnsentBody:
    """The unsent body of one request. At most one piece of `piece_bytes` of a body on disk is in memory.

    State that changes: `_loaded`, the bytes in memory; `_at`, how far a body on disk was read; `_is_reading`.
    """

    __slots__ = ("_at", "_is_reading", "_loaded", "_on_disk", "_piece_bytes")

    def __init__(self, body: Body | SentBody, piece_bytes: int) -> None:
        self._on_disk = body if isinstance(body, SentBody) else None
        self._loaded = _NOTHING if isinstance(body, SentBody) else memoryview(body)
        self._at = 0
        self._is_reading = False
        self._piece_bytes = piece_bytes

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._loaded) or (self._on_disk is not None and self._at < len(self._on_disk))

    def take(self, max_bytes: int, then: Callable[["UnsentBody", GatewayError | None], None]) -> memoryview:
        """Returns the next bytes, at most `max_bytes`. Returns none while they are being read from disk.

        `then` is called when they have been read, or with the error if they cannot be read.
        """
        if not self._loaded and not self._is_reading and self._on_disk is not None and self:
            self._is_reading = True
            self._on_disk.begin_read(self._at, self._piece_bytes, partial(self._on_read, then))
        piece, self._loaded = self._loaded[:max_bytes], self._loaded[max_bytes:]
        return piece

    def _on_read(
        self, then: Callable[["UnsentBody", GatewayError | None], None], read: "asyncio.Future[bytes]"
    ) -> None:
        if read.cancelled():  # the gateway is stopping
            return
        self._is_reading = False
        error = read.exception()
        if error is None:
            self._loaded = memoryview(read.result())
            self._at += len(self._loaded)
            then(self, None)
        elif isinstance(error, GatewayError):
            then(self, error)
        else:
            raise error
