"""The base of clients without an HTTP connection of their own: a call by the gateway itself, or a WebSocket turn.

They implement `http.client.Client`, so that such a request takes the same path as any other. Their body is known from
the start, no head is sent, and nothing is buffered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from gateway.http.client import RequestHead, Sink, Watch
from gateway.types import Body, Headers


class InnerClient(RequestHead, ABC):
    """See `http.client.Client`."""

    __slots__ = ()

    sends_head = False

    @abstractmethod
    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`."""

    async def pass_body(self, sink: Sink, max_bytes: int, timeout_s: float) -> None:
        """See `Client`. It is here already."""
        await sink(await self.read_body(max_bytes, timeout_s))

    @property
    def memory_is_scarce(self) -> bool:
        """See `Client`. Their bytes count as those of the connection that they belong to."""
        return False

    def key_is_known(self) -> None:
        """See `Client`."""

    async def start(self, status: int, headers: Headers) -> None:
        """See `Client`."""
        self.start_now(status, headers)

    def start_now(self, status: int, headers: Headers) -> bool:
        """See `Client`. There is no head to send."""
        del headers
        self.status = status
        return True

    @abstractmethod
    def write_now(self, data: Body) -> bool:
        """See `Client`."""

    async def write(self, data: Body) -> None:
        """See `Client`."""
        if not self.write_now(data):
            await self.drained()

    def buffer(self, data: Body) -> None:
        """See `Client`."""
        self.write_now(data)

    def flush(self) -> None:
        """See `Client`."""

    async def drained(self) -> None:
        """See `Client`. There is no slow reader to wait for."""

    async def end(self, data: Body = b"") -> None:
        """See `Client`."""
        self.write_now(data)

    @abstractmethod
    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
