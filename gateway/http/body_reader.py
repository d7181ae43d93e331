"""A body of a known length, read from the socket into its place: one copy, which the kernel makes.

    connection -> DirectBodyReader(owner, what has come, length) as the transport's protocol -> owner.body_read()

Through the parser there are three: uvloop's bytes, the parser's slice, and their whole.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from gateway.types import Body

_STEP_BYTES: Final = 1024 * 1024  # by which its place grows: new memory takes the loop's time, too
_READ_BYTES: Final = 128 * 1024  # libuv reads 32 times in a row from a socket that has more
_SCRAP_BYTES: Final = 64 * 1024


class Owner(Protocol):
    """The connection whose body it is; it gets everything else that happens."""

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
    """Reads the rest of a body from the socket into its place: uvloop's bytes, the parser's and their whole are saved.

    State that changes: `body`, filled up to `_filled`, which grows as it is filled, so that a length alone takes no
    memory; `_left`; `_scrap`, over which goes what nobody wants any more.
    """

    def __init__(self, owner: Owner, begun: Body, length: int) -> None:
        self.body = bytearray(min(length, max(_STEP_BYTES, len(begun))))
        self.body[: len(begun)] = begun
        self._owner = owner
        self._view = memoryview(self.body)
        self._filled = len(begun)
        self._left = length - len(begun)
        self._scrap: memoryview | None = None

    def stop(self) -> None:
        """See `request_cycle.BodyReader`."""
        self._view.release()
        if self._left and self._scrap is None:
            self._scrap = memoryview(bytearray(_SCRAP_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        del sizehint
        if self._scrap is not None:
            return self._scrap[: self._left]
        if self._filled == len(self.body):
            self._view.release()
            self.body += bytes(min(self._left, _STEP_BYTES))
            self._view = memoryview(self.body)
        return self._view[self._filled : self._filled + _READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        self._left -= nbytes
        self._filled += nbytes
        if not self._left:
            self._owner.body_read()

    def eof_received(self) -> bool:
        """The owner's."""
        return self._owner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The owner's."""
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The owner's."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """The owner's."""
        self._owner.resume_writing()
