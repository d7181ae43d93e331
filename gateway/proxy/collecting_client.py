"""The client of a model call that the gateway makes during a request. It collects the answer.

The call has the headers of the request's own client, and is cancelled when that client leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.http.client import Client, Watch
from gateway.http.inner_client import InnerClient
from gateway.types import Body, Headers


class CollectingClient(InnerClient):
    """See `http.client.Client`. State that changes: `body`, the body of the answer so far."""

    __slots__ = ("_client", "body")

    def __init__(self, client: Client) -> None:
        super().__init__({**client.scope, "headers": list(client.headers)}, dict(client.fields))
        self.body = bytearray()
        self._client = client

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`. The gateway makes the body of such a call itself."""
        del max_bytes, timeout_s, length
        return b""

    def start_now(self, status: int, headers: Headers) -> bool:
        """See `Client`."""
        self.first_byte = time.perf_counter()
        return super().start_now(status, headers)

    def write_now(self, data: Body) -> bool:
        """See `Client`."""
        self.bytes_out += len(data)
        self.keep(data)
        return True

    def keep(self, data: Body) -> None:
        """Stores a part of the answer's body."""
        self.body += data

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        self.start_now(status, headers)
        self.write_now(body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`."""
        return self._client.watch(on_leave)
