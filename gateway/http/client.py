"""A request's client, as the handler sees it: what it sent, and a way to answer. Two implementations, one interface.

    fields                the request's headers by their lower-case names; the last one where a name occurs twice
    read_body(...)        step 2's bytes, bounded in size and time
    start / write / end   the answer, in pieces
    buffer / flush        bytes that wait for the next ones, and an end to that
    watch(on_leave)       tells when the client is gone
    answer(...)           the answer, whole

    ConnectionClient      on the gateway's own connection: connection_client.py
    AsgiClient            on any other ASGI server: asgi_client.py

State that changes: `status` (None until the head is sent), `bytes_out`, `first_byte` (when the body's was written).
What is written after the client has left is written to nobody, and changes none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.errors import GatewayError
from gateway.types import Body, Headers, Scope


class Watch(Protocol):
    """What `Client.watch` gives."""

    def close(self) -> None:
        """Stops watching. Idempotent."""


class ClientDisconnected(Exception):
    """The client closed its connection before its request was whole."""


class Client(Protocol):
    """One request's client."""

    scope: Scope
    headers: Headers
    fields: dict[bytes, bytes]
    status: int | None
    bytes_out: int
    first_byte: float | None

    @property
    def starts_now(self) -> bool:
        """Whether an answer may start without being awaited."""

    def text(self, name: bytes) -> str | None:
        """A request header as text."""

    def body_length(self, max_bytes: int) -> int | None:
        """The body's length if it is known before it is read. Raises GatewayError `body_too_large`."""

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """The request's body. Raises GatewayError `body_too_large`, `request_timeout`; ClientDisconnected."""

    @property
    def memory_is_scarce(self) -> bool:
        """Much is held for requests that no key vouches for: the key comes before the body."""

    def key_is_known(self) -> None:
        """A key that is alive vouches for this request: what it holds is not counted as nobody's any more."""

    async def start(self, status: int, headers: Headers) -> None:
        """The answer's head; it may wait for the first bytes of the body, or for `flush`."""

    def start_now(self, status: int, headers: Headers) -> bool:
        """The answer's head, without waiting; False: this server does not let us (`starts_now`): `start` is awaited."""

    async def write(self, data: bytes) -> None:
        """Sends body bytes; waits while the client is slower than the upstream."""

    def write_now(self, data: bytes) -> bool:
        """Sends body bytes without waiting. False: before more is written, `drained` must be awaited."""

    def buffer(self, data: bytes) -> None:
        """Sends body bytes together with what follows at once, which may be the end."""

    def flush(self) -> None:
        """Sends what waits."""

    async def drained(self) -> None:
        """Waits until the client has taken what was written, but for a bounded rest; or has left."""

    async def end(self, data: bytes = b"") -> None:
        """Sends the last body bytes."""

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer."""

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """Calls back when the client is gone, until `close`. For use after the body has been read."""


class RequestHead:
    """What both implementations know of a request before its body."""

    __slots__ = ("bytes_out", "fields", "first_byte", "headers", "scope", "status")

    starts_now = True

    def __init__(self, scope: Scope, fields: dict[bytes, bytes]) -> None:
        self.scope = scope
        self.headers: Headers = scope["headers"]
        self.fields = fields
        self.status: int | None = None
        self.bytes_out = 0
        self.first_byte: float | None = None

    def text(self, name: bytes) -> str | None:
        """See `Client`."""
        value = self.fields.get(name)
        return None if value is None else value.decode("latin-1")

    def body_length(self, max_bytes: int) -> int | None:
        """See `Client`."""
        text = self.fields.get(b"content-length", b"")
        length = int(text) if text.isdigit() else None
        if length is not None and length > max_bytes:
            raise too_large(max_bytes)
        return length


def bounded(body: Body, max_bytes: int) -> Body:
    """The body. Raises GatewayError `body_too_large`."""
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    return body


def too_large(max_bytes: int) -> GatewayError:
    """The refusal of a body over the bound."""
    return GatewayError("body_too_large", f"The body may hold {max_bytes} bytes at most.", explain={"limit": max_bytes})


def too_slow(timeout_s: float) -> GatewayError:
    """The refusal of a body that does not come."""
    return GatewayError("request_timeout", f"The body did not arrive within {timeout_s:g} s.")
