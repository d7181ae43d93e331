"""An answer that was read completely, such as a refusal that is kept while other upstreams are tried.

    read_whole(answer, ...) -> BufferedAnswer     never raises; a fault is raised when the buffered answer is read

Mutable: how much of it has been read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.types import Headers
from gateway.upstream.transport import Answer, FaultKind, UpstreamFault


class BufferedAnswer:
    """`transport.Answer` without a connection. `fault` is raised behind its bytes, in place of a regular end."""

    def __init__(self, status: int, headers: Headers, body: bytes, fault: UpstreamFault | None = None) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.fault = fault
        self._unread = body

    @property
    def ended(self) -> bool:
        """See `Answer.ended`."""
        return self.fault is None

    def read_nowait(self) -> bytes:
        """See `Answer.read_nowait`."""
        data, self._unread = self._unread, b""
        return data

    async def read(self) -> bytes:
        """See `Answer.read`."""
        data = self.read_nowait()
        if not data and self.fault is not None:
            raise self.fault
        return data

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        """See `Answer.pump`."""
        return await pump_reads(self.read, take)

    def abort(self) -> None:
        """See `Answer.abort`. There is no connection to close."""
        self._unread = b""


class PeekedAnswer:
    """An answer of which some bytes have been read already. They are returned once more, before the rest."""

    def __init__(self, answer: Answer, first: bytes) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        self._first = first

    @property
    def ended(self) -> bool:
        """See `Answer.ended`."""
        return self._answer.ended

    def read_nowait(self) -> bytes:
        """See `Answer.read_nowait`."""
        first, self._first = self._first, b""
        return first + self._answer.read_nowait()

    async def read(self) -> bytes:
        """See `Answer.read`."""
        return self.read_nowait() if self._first else await self._answer.read()

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        """See `Answer.pump`."""
        if self._first and not take(self.read_nowait()):
            return True
        return await self._answer.pump(take)

    def abort(self) -> None:
        """See `Answer.abort`."""
        self._first = b""
        self._answer.abort()


async def pump_reads(read: Callable[[], Awaitable[bytes]], take: Callable[[bytes], bool]) -> bool:
    """Implements `Answer.pump` by `read`, for answers that do not arrive on a connection of their own."""
    while data := await read():
        if not take(data):
            return True
    return False


async def read_whole(answer: Answer, max_bytes: int, timeout_s: float) -> BufferedAnswer:
    """Reads an answer to its end or to one of the bounds. Its connection is then free or closed."""
    pieces: list[bytes] = []
    size = 0
    fault: UpstreamFault | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while data := await answer.read():
                pieces.append(data)
                size += len(data)
                if size > max_bytes:
                    fault = UpstreamFault(FaultKind.TOO_LARGE, f"more than {max_bytes} bytes", sent=True)
                    break
    except UpstreamFault as found:
        fault = found
    except TimeoutError:
        fault = UpstreamFault(FaultKind.CHUNK_TIMEOUT, f"not whole after {timeout_s:g} s", sent=True)
    answer.abort()
    return BufferedAnswer(answer.status, answer.headers, b"".join(pieces), fault)
