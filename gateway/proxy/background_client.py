"""The client of a request that runs in the background, for the relay: it takes everything, and nobody reads it.

The true client was answered before. What is worth reading goes to the store by way of the turn. An answer that is an
error says why the response has failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.http.client import Client, RequestHead, Watch
from gateway.protocol.lenient_json import parse_object
from gateway.state.background_turn import BackgroundTurn, Problem
from gateway.types import Body, Headers

_ERROR = 400


class BackgroundClient(RequestHead):
    """See `http.client.Client`. The request's head is that of the client that asked."""

    __slots__ = ("_turn",)

    def __init__(self, asked: Client, turn: BackgroundTurn) -> None:
        super().__init__({**asked.scope, "headers": list(asked.headers)}, dict(asked.fields))
        self._turn = turn

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """See `Client`. The body was read when the response was queued."""
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
        if status >= _ERROR:
            self._turn.problem = _problem(status, body)

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """See `Client`. A background response is ended by its runner: no client can leave."""
        del on_leave
        return _Unwatched()


class _Unwatched:
    """A watch that never calls."""

    def close(self) -> None:
        """Stops watching."""


def _problem(status: int, body: bytes) -> Problem:
    """Returns why the response failed: the provider's own error where it has one."""
    error = (parse_object(body) or {}).get("error")
    told = error if isinstance(error, dict) else {}
    code, message = told.get("code"), told.get("message")
    return Problem(
        code if isinstance(code, str) and code else "server_error",
        message if isinstance(message, str) and message else f"The provider answered {status}.",
    )
