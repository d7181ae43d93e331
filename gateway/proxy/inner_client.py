"""The client of a call that the gateway makes for itself, in the course of a request: it collects the answer.

The call has the headers of the request's own client, and ends when that client leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.http.client import Client, RequestHead, Watch
from gateway.types import Body, Headers


class InnerClient(RequestHead):
    """See `http.client.Client`. State that changes besides: `body`, what was answered."""

    __slots__ = ("_asked", "body")

    def __init__(self, asked: Client) -> None:
        super().__init__({**asked.scope, "headers": list(asked.headers)}, dict(asked.fields))
        self.body = bytearray()
        self._asked = asked

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`. The body of such a call is made, not read."""
        del max_bytes, timeout_s, length
        return b""

    @property
    def memory_is_scarce(self) -> bool:
        """See `Client`."""
        return False

    def key_is_known(self) -> None:
        """See `Client`."""

    async def start(self, status: int, headers: Headers) -> None:
        """See `Client`."""
        self.start_now(status, headers)

    def start_now(self, status: int, headers: Headers) -> bool:
        """See `Client`."""
        del headers
        self.status = status
        self.first_byte = time.perf_counter()
        return True

    async def write(self, data: bytes) -> None:
        """See `Client`."""
        self.buffer(data)

    def write_now(self, data: bytes) -> bool:
        """See `Client`. Nobody is slow."""
        self.buffer(data)
        return True

    def buffer(self, data: bytes) -> None:
        """See `Client`."""
        self.bytes_out += len(data)
        self.keep(data)

    def keep(self, data: bytes) -> None:
        """Keeps a part of the answer's body."""
        self.body += data

    def flush(self) -> None:
        """See `Client`."""

    async def drained(self) -> None:
        """See `Client`."""

    async def end(self, data: bytes = b"") -> None:
        """See `Client`."""
        self.buffer(data)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        self.start_now(status, headers)
        self.buffer(body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
        return self._asked.watch(on_leave)
