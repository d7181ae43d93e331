"""The client of a call that the gateway makes for itself, in the course of a request: it collects the answer.

The call has the headers of the request's own client, and ends when that client leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.http.client import Client, Watch
from gateway.http.inner_client import InnerClient
from gateway.types import Body, Headers


class CollectingClient(InnerClient):
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

    def start_now(self, status: int, headers: Headers) -> bool:
        """See `Client`."""
        self.first_byte = time.perf_counter()
        return super().start_now(status, headers)

    def write_now(self, data: bytes) -> bool:
        """See `Client`."""
        self.bytes_out += len(data)
        self.keep(data)
        return True

    def keep(self, data: bytes) -> None:
        """Keeps a part of the answer's body."""
        self.body += data

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        self.start_now(status, headers)
        self.write_now(body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
        return self._asked.watch(on_leave)
