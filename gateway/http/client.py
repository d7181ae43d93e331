"""The client of a request, as the handler sees it: what it has sent, and the means to answer it.

    fields                the request's headers by lower-case name; the last one if a name occurs twice
    facts                 what `of_head` has found out about its head, whatever the length of its body
    read_body(...)        reads the body, bounded in size and time
    pass_body(sink, ...)  passes the body on piece by piece, within the same bounds
    start / write / end   send the answer in pieces
    buffer / flush        collect bytes that go out together, and send them
    watch(on_leave)       calls back when the client disconnects
    answer(...)           sends a whole answer

`Client` is the interface. It has two implementations: `ConnectionClient` (connection_client.py) is for the gateway's
own connection, and `AsgiClient` (asgi_client.py) for any other ASGI server.

Mutable: `status` (None until the head is sent), `bytes_out`, and `first_byte` (the time at which the first byte of the
body was written). After the client has disconnected, writes are discarded and change none of them. `follows_answer`
says that the request goes on from an answer that is still being made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gateway.errors import GatewayError
from gateway.types import Body, Headers, Receive, Scope, T

Sink = Callable[[Body], Awaitable[None]]
"""Takes a body piece by piece."""


class Watch(Protocol):
    """What `Client.watch` returns."""

    def close(self) -> None:
        """Stops watching. Idempotent."""


class ClientDisconnected(Exception):
    """The client closed its connection before the request was complete."""


class Client(Protocol):
    """The client of one request."""

    scope: Scope
    headers: Headers
    fields: dict[bytes, bytes]
    facts: dict[Any, Any]
    status: int | None
    bytes_out: int
    first_byte: float | None
    follows_answer: bool

    @property
    def sends_head(self) -> bool:
        """Whether the client gets the head of an answer. The answer to a turn of a WebSocket has none."""

    @property
    def starts_now(self) -> bool:
        """Whether `start_now` can send a head."""

    def text(self, name: bytes) -> str | None:
        """Returns a header of the request as text, or None."""

    def body_length(self, max_bytes: int) -> int | None:
        """Returns the length of the body if its head states one. Raises GatewayError `body_too_large`."""

    async def read_body(self, max_bytes: int, timeout_s: float, length: int | None = None) -> Body:
        """Returns the request's body. Raises GatewayError `body_too_large`, `request_timeout`; ClientDisconnected."""

    async def pass_body(self, sink: Sink, max_bytes: int, timeout_s: float) -> None:
        """Hands the body on as it comes, and no faster than it is taken. Raises what `read_body` and `sink` raise."""

    @property
    def memory_is_scarce(self) -> bool:
        """Whether unauthenticated requests hold much memory: the key must then be checked before the body is read."""

    def key_is_known(self) -> None:
        """Says that the request has a valid key. Its bytes no longer count as those of unauthenticated requests."""

    async def start(self, status: int, headers: Headers) -> None:
        """Sends the head of the answer. It may wait for the first bytes of the body, or for `flush`."""

    def start_now(self, status: int, headers: Headers) -> bool:
        """Sends the head without waiting. Returns False if this server cannot (`starts_now`): use `start` then."""

    async def write(self, data: Body) -> None:
        """Sends body bytes. Waits while the client is slower than the upstream."""

    def write_now(self, data: Body) -> bool:
        """Sends body bytes without waiting. Returns False if `drained` must be awaited before the next write."""

    def buffer(self, data: Body) -> None:
        """Sends body bytes together with those that follow, or with the end."""

    def flush(self) -> None:
        """Sends what `buffer` has collected."""

    async def drained(self) -> None:
        """Waits until the client has read most of what was written, or has disconnected."""

    async def end(self, data: Body = b"") -> None:
        """Sends the last body bytes."""

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer."""

    def watch(self, on_leave: Callable[[], object]) -> Watch:
        """Calls back when the client disconnects, until `close` is called. For use after the body has been read."""


class RequestHead:
    """What implementations know of a request before they read its body."""

    __slots__ = ("bytes_out", "facts", "fields", "first_byte", "headers", "scope", "status")

    sends_head = True
    starts_now = True
    follows_answer = False

    def __init__(self, scope: Scope, fields: dict[bytes, bytes], facts: dict[Any, Any] | None = None) -> None:
        self.scope = scope
        self.headers: Headers = scope["headers"]
        self.fields = fields
        self.facts = {} if facts is None else facts
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


async def pass_messages(receive: Receive, sink: Sink, max_bytes: int) -> None:
    """A body that comes as ASGI messages, to whoever takes it. Raises GatewayError `body_too_large`."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > max_bytes:
            raise too_large(max_bytes)
        await sink(piece)
        if not message.get("more_body", False):
            return


def of_head(client: Client, find: Callable[[dict[bytes, bytes]], T]) -> T:
    """Returns `find(client.fields)`, which does not depend on Content-Length: once for all requests with the same head.

    What `find` raises is raised each time.
    """
    found: T | None = client.facts.get(find)
    if found is None:
        found = client.facts[find] = find(client.fields)
    return found


def bounded(body: Body, max_bytes: int) -> Body:
    """Returns the body. Raises GatewayError `body_too_large`."""
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    return body


def too_large(max_bytes: int) -> GatewayError:
    """Returns the refusal of a body that exceeds the bound."""
    return GatewayError("body_too_large", f"The body may hold {max_bytes} bytes at most.", explain={"limit": max_bytes})


def too_slow(timeout_s: float) -> GatewayError:
    """Returns the refusal of a body that did not arrive in time."""
    return GatewayError("request_timeout", f"The body did not arrive within {timeout_s:g} s.")
