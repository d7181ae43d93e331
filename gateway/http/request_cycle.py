"""One request of a client and its answer, straight over the connection (connection.py) or as ASGI messages.

    the handler        take_body, read_body, watch / start, write, buffer, flush, end: no message, no coroutine a write
    any other route    receive, send: ASGI, as every server has it

The handler's client finds a request's cycle in scope["extensions"][EXTENSION]: connection_client.py.

A write is a system call: the head waits for the body's first bytes, and `buffer` lets bytes wait for those behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Protocol

from gateway.errors import GatewayError
from gateway.http.detached import Detached
from gateway.http.head import STATUS_LINES
from gateway.protocol.header_fields import is_clean
from gateway.types import Body, Headers, Scope

EXTENSION: Final = "gateway.request_cycle"
HIGH_WATER_BYTES: Final = 64 * 1024
"""As much of a body is taken from the network before somebody asks for it."""
_DIRECT_BYTES: Final = 256 * 1024  # a body of a known length from here on is read into its place
_WITHOUT_BODY: Final = frozenset({204, 304})
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2  # RFC 9112, 6.1: HTTP/1.0 has no chunks, its connection's end ends the answer
SILENT: Final = -3  # RFC 9110, 9.3.2: HEAD is answered without a body
_COPY_LIMIT_BYTES: Final = 1024 * 1024
_JOIN_LIMIT_BYTES: Final = 16 * 1024  # fewer are copied behind what waits; more go beside it
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Budget(Protocol):
    """What the connections of a worker may hold together."""

    is_scarce: bool


class Connection(Protocol):
    """What a cycle needs of its connection."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    write_paused: bool
    on_leave: Callable[[], Any] | None
    held: int

    @property
    def budget(self) -> Budget:
        """What all connections may hold."""

    def server_headers(self) -> bytes:
        """The lines that every answer has."""

    def resume_reading(self) -> None:
        """More of the body is wanted."""

    def pause_reading(self) -> None:
        """No more of it is, for now."""

    def read_directly(self, begun: Body, length: int) -> BodyReader:
        """Reads the rest of the body into its place."""

    async def drain(self) -> None:
        """Waits until the client has caught up, or has left."""

    def answered(self, cycle: RequestCycle) -> None:
        """The answer has been written."""

    def count_held(self) -> None:
        """What is held for nobody in particular has changed: the budget is told."""

    def detach(self, cycle: RequestCycle) -> Detached:
        """Gives its socket away: no HTTP follows."""


class BodyReader(Protocol):
    """A body on its way into its place."""

    body: bytearray

    def stop(self) -> None:
        """The body is whole, or nobody wants it any more. Idempotent."""


class RequestCycle:
    """One request's way to its client. A client that has left takes whatever is written.

    State that changes. Of the body: `_body`, what nobody has read of it; `body_bytes`, what has come of it, but for
    what was taken when a key vouched for it; `complete`; `_waiter`, who waits for `_news`.
    Of the answer: `started`; `response_complete`; `_left` of what Content-Length has promised, or CHUNKED and the like;
    `_held`, the bytes that wait for the next ones. Besides: `disconnected`, the client has left; `keep_alive`; `task`,
    which serves the request; `verified`, a key vouches for it; `address`, which it counts against where a proxy has
    forwarded it; `refusal`, the answer where that address has too many.
    """

    # fmt: off
    __slots__ = (
        "_body",
        "_extra",
        "_held",
        "_left",
        "_news",
        "_on_leave",
        "_waiter",
        "address",
        "body_bytes",
        "complete",
        "connection",
        "disconnected",
        "expects_continue",
        "fields",
        "keep_alive",
        "refusal",
        "response_complete",
        "scope",
        "started",
        "task",
        "verified",
    )
    # fmt: on

    def __init__(self, connection: Connection, scope: Scope, fields: dict[bytes, bytes], *, keep_alive: bool) -> None:
        self.scope = scope
        self.fields = fields  # the last one where a field occurs twice
        self.keep_alive = keep_alive
        # An HTTP/1.0 client knows no interim answers (RFC 9110, 10.1.1).
        self.expects_continue = (
            b"expect" in fields and fields[b"expect"].lower() == b"100-continue" and scope["http_version"] != "1.0"
        )
        self.complete = False
        self.started = False
        self.response_complete = False
        self.disconnected = False
        self.verified = False
        self.address: str | None = None
        self.refusal: GatewayError | None = None
        self.task: asyncio.Task[None] | None = None
        self.connection = connection
        self._extra: Headers | None = None
        self._left = CHUNKED
        self._held = b""
        self._body: Body = b""
        self.body_bytes = 0
        self._on_leave: Callable[[], Any] | None = None
        self._news = False
        self._waiter: asyncio.Future[None] | None = None

    # the request's body

    def add(self, piece: bytes) -> None:
        """A piece of the body has come. Many small ones are joined: each by itself would take ten times its bytes."""
        body = self._body
        self.body_bytes += len(piece)
        if not body:
            self._body = piece
        elif isinstance(body, bytearray):
            body += piece
        else:
            self._body = bytearray(body) + piece
        if len(self._body) > HIGH_WATER_BYTES and self._waiter is None:
            self.connection.pause_reading()
        self.wake()

    def drop_body(self) -> None:
        """Nobody wants the body any more: its request has its answer, or its client has left."""
        self._body, self.body_bytes = b"", 0

    def wake(self) -> None:
        """Something has happened that a reader waits for: a piece, the body's end, the client's, the answer's."""
        self._news = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take_body(self) -> Body | None:
        """The body if all of it is here, once; None: `read_body` it."""
        if not self.complete or self.disconnected:
            return None
        self.connection.resume_reading()  # a client that leaves must be seen
        return self._take()

    async def read_body(self, length: int | None, most_bytes: int) -> Body | None:
        """The body when it is whole; more than `most_bytes` where it is larger. None: the client has left.

        `length`: what its head says, at most `most_bytes`. A long one is read into its place: no copy is made.
        """
        self._allow_body()
        if length is not None and length >= _DIRECT_BYTES and not (self.complete or self.disconnected):
            return await self._read_directly(length)
        while not (self.complete or self.disconnected or len(self._body) > most_bytes):
            self.connection.resume_reading()
            await self._something()
        self.connection.resume_reading()
        return self._take() if self.complete or not self.disconnected else None

    async def _read_directly(self, length: int) -> Body | None:
        reader = self.connection.read_directly(self._take(), length)
        try:
            while not (self.complete or self.disconnected):
                await self._something()
        finally:
            reader.stop()
        return reader.body if self.complete else None

    def _take(self) -> Body:
        body, self._body = self._body, b""
        if self.verified:
            self.body_bytes = 0
        self._news = False
        return body

    def _allow_body(self) -> None:
        if self.expects_continue and not self.disconnected:
            self.expects_continue = False
            self.connection.transport.write(CONTINUE)

    async def _something(self) -> None:
        self._waiter = waiter = self.connection.loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def watch(self, on_leave: Callable[[], Any]) -> None:
        """Calls back when the client is gone: at once if it is. One connection, one running request, one watcher."""
        if self.disconnected:
            on_leave()
        else:
            self.connection.on_leave = self._on_leave = on_leave

    def close(self) -> None:
        """Ends `watch`. Idempotent; the connection may have gone on to its next request."""
        if self._on_leave is not None and self.connection.on_leave is self._on_leave:
            self.connection.on_leave = None
        self._on_leave = None

    # an upgrade

    def detach(self) -> Detached:
        """Gives the connection to another protocol, which answers from here on."""
        self.started = self.response_complete = True
        return self.connection.detach(self)

    # the answer

    def add_headers(self, headers: Headers) -> None:
        """More headers for the answer, whoever gives it."""
        self._extra = headers

    @property
    def busy(self) -> bool:
        """The client is slower than what is written for it."""
        return self.connection.write_paused and not self.disconnected

    async def drain(self) -> None:
        """Waits until the client has caught up, or has left."""
        await self.connection.drain()

    def start(self, status: int, headers: Headers) -> None:
        """The answer's head, to go with what is written next, or by `flush`; names are in lower case.

        Raises RuntimeError for a control character in it.
        """
        if self._extra is not None:
            headers = [*self._extra, *headers]
        closing = b"connection: close\r\n"
        parts: list[bytes] = []
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection":  # the one that an application writes ends it
                self.keep_alive, closing = False, b""
        lines = b"".join(parts)
        if not is_clean(lines, len(headers)):
            raise RuntimeError("a control character in an answer's head")
        framing = b"\r\n" if self._left >= 0 else self._frame(status)
        if not self.keep_alive:
            framing = closing + framing
        self.started = True
        self.expects_continue = False
        self._held = b"".join((STATUS_LINES[status], self.connection.server_headers(), lines, framing))
        if self.scope["method"] == "HEAD":
            self._left = SILENT

    def _frame(self, status: int) -> bytes:
        """How the end of an answer without a length is told; gives the last of the head's lines."""
        if status in _WITHOUT_BODY or self.scope["method"] == "HEAD":
            self._left = 0
        elif self.scope["http_version"] == "1.0":
            self._left = UNTIL_CLOSE
        else:
            return b"transfer-encoding: chunked\r\n\r\n"
        return b"\r\n"

    def write(self, data: bytes) -> bool:
        """Writes body bytes. False: the client is slower than that, `drain` before more is written."""
        if self._left == CHUNKED:
            if len(data) > _COPY_LIMIT_BYTES:
                self._write_large(data)
            elif data:
                data = b"%b%x\r\n%b\r\n" % (self._held, len(data), data)
                self._held = b""
                if self.disconnected:
                    return True
                self.connection.transport.write(data)
        elif data:
            self._send(self._counted(data))
        return not self.connection.write_paused or self.disconnected

    def _write_large(self, data: bytes) -> None:
        """A chunk that is not copied behind its length."""
        head, self._held = b"%b%x\r\n" % (self._held, len(data)), b""
        if not self.disconnected:
            self.connection.transport.writelines((head, data, b"\r\n"))

    def buffer(self, data: bytes) -> None:
        """Writes body bytes with those that follow: `end` is near."""
        if len(data) > _COPY_LIMIT_BYTES:
            self.write(data)
        elif data:
            self._held += b"%x\r\n%b\r\n" % (len(data), data) if self._left == CHUNKED else self._counted(data)

    def flush(self) -> None:
        """Writes what waits."""
        if self._held:
            self._send(b"")

    def end(self, data: bytes) -> None:
        """Writes the last body bytes; the connection goes on to its next request."""
        if self._left == CHUNKED:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        else:
            data = self._counted(data)
            if self._left > 0:
                raise RuntimeError("an answer shorter than its Content-Length")
        self._send(data)
        self.response_complete = True
        self._body, self.body_bytes = b"", 0
        self.wake()
        self.connection.answered(self)

    def _send(self, data: bytes) -> None:
        held, self._held = self._held, b""
        if self.disconnected:
            return
        transport = self.connection.transport
        if held and len(data) > _JOIN_LIMIT_BYTES:
            transport.writelines((held, data))
        elif held or data:
            transport.write(held + data if held else data)

    def _counted(self, data: bytes) -> bytes:
        """What goes out of `data`."""
        if self._left >= 0:
            if len(data) > self._left:
                raise RuntimeError("an answer longer than its Content-Length")
            self._left -= len(data)
        return data if self._left != SILENT else b""

    # ASGI

    async def receive(self) -> dict[str, Any]:
        """The next piece of the body; `http.disconnect` when the client has gone, or the answer is whole."""
        self._allow_body()
        while not (self._news or self.disconnected or self.response_complete):
            self.connection.resume_reading()
            await self._something()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": bytes(self._take()), "more_body": not self.complete}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """One message of an answer. Raises RuntimeError for one that cannot come now."""
        if self.busy:
            await self.drain()
        if message["type"] == "http.response.start" and not self.started:
            self.start(message["status"], [(name.lower(), value) for name, value in message.get("headers", ())])
            self.flush()  # its body may take a while
        elif message["type"] == "http.response.body" and self.started and not self.response_complete:
            act = self.write if message.get("more_body", False) else self.end
            act(message.get("body", b""))
        else:
            raise RuntimeError(f"the ASGI message {message['type']!r} cannot come now")
