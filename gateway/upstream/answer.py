"""An answer while it arrives on a native connection: a buffer between the parser and the reader.

    read, read_nowait    return everything that has arrived since the last read
    pump                 passes each read's bytes from the socket's callback to a callable, without waking a task

Mutable: the connection fills it, and the reader empties it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.upstream.transport import FaultKind, TransportConfig, UpstreamFault


class Connection(Protocol):
    """The methods of a connection that its answer uses."""

    config: TransportConfig

    def wait(self, answer: "NativeAnswer", timeout_s: float) -> asyncio.Future[None]:
        """Return a future that ends when the answer has something new."""

    def taken(self, answer: "NativeAnswer") -> None:
        """Note that the reader has taken all pieces."""

    def fail(self, kind: FaultKind, detail: str) -> None:
        """End the running answer with a fault."""


class NativeAnswer:
    """`transport.Answer` on a connection. `connection` is None once the message has ended or failed."""

    __slots__ = ("connection", "ended", "fault", "headers", "pieces", "status", "take", "unread_bytes", "waiter")

    def __init__(self, connection: Connection, pieces: Sequence[bytes]) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.connection: Connection | None = connection
        self.pieces = pieces  # the connection's own list while the message runs
        self.unread_bytes = 0  # bytes as received, including the framing
        self.waiter: asyncio.Future[None] | None = None
        self.take: Callable[[bytes], bool] | None = None  # receives the data while `pump` waits
        self.fault: UpstreamFault | None = None
        self.ended = False  # see `Answer.ended`

    def read_nowait(self) -> bytes:
        """See `Answer.read_nowait`."""
        pieces = self.pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        connection = self.connection
        if connection is None:
            self.pieces = ()
        else:
            connection.taken(self)
        return data

    async def read(self) -> bytes:
        """See `Answer.read`."""
        if not self.pieces:
            connection = self.connection
            if connection is not None:
                try:
                    await connection.wait(self, connection.config.chunk_timeout_s)
                except asyncio.CancelledError:
                    self.abort()
                    raise
            if not self.pieces:
                if self.fault is None:
                    return b""
                raise self.fault
        return self.read_nowait()

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        """See `Answer.pump`."""
        while data := await self.read():
            if not take(data):
                return True
            connection = self.connection
            if connection is None or self.pieces:
                continue
            self.take = take
            try:
                await connection.wait(self, connection.config.chunk_timeout_s)
            except asyncio.CancelledError:
                self.abort()
                raise
            finally:
                wanted, self.take = self.take is not None, None
            if not wanted:
                return True
        return False

    def raise_in_pump(self, error: Exception) -> None:
        """Makes `pump` raise the exception of its callable."""
        self.take = None
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def abort(self) -> None:
        """See `Answer.abort`."""
        if self.connection is not None:
            self.connection.fail(FaultKind.CUT, "aborted by the gateway")
            self.pieces = ()

    def wake(self) -> None:
        """Wake the waiting reader, if there is one."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
