"""The client of a call that the gateway makes for itself, outside of any request. It discards the answer."""

from __future__ import annotations

from collections.abc import Callable

from gateway.http.client import Watch
from gateway.http.inner_client import InnerClient
from gateway.types import Body, Headers


class NullWatch:
    """A watch on a client that cannot leave."""

    def close(self) -> None:
        """Stops watching."""


class DiscardingClient(InnerClient):
    """See `http.client.Client`. It gets one path, and never leaves."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__({"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}, {})

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`. The call has no body."""
        del max_bytes, timeout_s, length
        return b""

    def write_now(self, data: Body) -> bool:
        """See `Client`."""
        self.bytes_out += len(data)
        return True

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        self.start_now(status, headers)
        self.write_now(body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
        del on_leave
        return NullWatch()
