"""A body of a known length, read from the socket into its place: one copy, which the kernel makes.

    connection -> DirectBodyReader(owner, what has come, length) as the transport's protocol -> owner.body_read()

Through the parser a body is copied three times: by uvloop, by the parser, and when its pieces are joined.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from gateway.types import Body

_STEP_BYTES: Final = 1024 * 1024  # by which the buffer grows, because clearing much memory at once takes long
_ZEROS: Final = memoryview(bytes(_STEP_BYTES))
_READ_BYTES: Final = 128 * 1024  # libuv reads 32 times in a row from a socket that has more
_DISCARD_BYTES: Final = 64 * 1024


class Owner(Protocol):
    """The connection that the body comes on. Every other event of its socket is passed on to it."""

    def body_read(self) -> None:
        """The body's last byte has come."""

    def eof_received(self) -> bool:
        """The client has ended its side."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""

    def pause_writing(self) -> None:
        """The client is slower than its answer."""

    def resume_writing(self) -> None:
        """It has caught up."""


class DirectBodyReader(asyncio.BufferedProtocol):
    """Reads the rest of a body from the socket into its buffer.

    State that changes: `body`, which is filled up to `_filled` and grows with it, so that a client that only states a
    length takes no memory; `_left`; `_discarded`, a buffer for what comes after nobody wants the body any more.
    """

    def __init__(self, owner: Owner, begun: Body, length: int) -> None:
        self.body = bytearray(min(length, max(_STEP_BYTES, len(begun))))
        self.body[: len(begun)] = begun
        self._owner = owner
        self._view = memoryview(self.body)
        self._filled = len(begun)
        self._left = length - len(begun)
        self._discarded: memoryview | None = None

    def stop(self) -> bytearray:
        """See `request_cycle.BodyReader`. It keeps nothing, because uvloop's transport keeps the reader itself."""
        self._view.release()
        if self._left and self._discarded is None:
            self._discarded = memoryview(bytearray(_DISCARD_BYTES))
        body, self.body = self.body, bytearray()
        return body

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns the memory into which the next bytes are read."""
        del sizehint
        if self._discarded is not None:
            return self._discarded[: self._left]
        if self._filled == len(self.body):
            self._view.release()
            self.body += _ZEROS[: self._left]
            self._view = memoryview(self.body)
        return self._view[self._filled : self._filled + _READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """That many bytes have been read."""
        self._left -= nbytes
        self._filled += nbytes
        if not self._left:
            self._owner.body_read()

    def eof_received(self) -> bool:
        """Passes it on to the owner."""
        return self._owner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Passes it on to the owner."""
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Passes it on to the owner."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """Passes it on to the owner."""
        self._owner.resume_writing()
