"""One request and its answer, written straight to the connection (connection.py) or by ASGI messages.

    the handler        take_body, read_body, watch / start, write, buffer, flush, end: without messages or coroutines
    any other route    receive, send: ASGI, as with every server

connection_client.py finds the cycle of a request in scope["extensions"][EXTENSION].

A write is a system call. Therefore the head waits for the first bytes of the body, and `buffer` collects bytes that go
out with those that follow.
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
"""So much of a body is read from the network before it is asked for."""
_DIRECT_BYTES: Final = 256 * 1024  # a body of at least this known length is read straight into its buffer
_WITHOUT_BODY: Final = frozenset({204, 304})
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2  # RFC 9112, 6.1: HTTP/1.0 has no chunks, so the end of the connection ends the answer
SILENT: Final = -3  # RFC 9110, 9.3.2: HEAD is answered without a body
_COPY_LIMIT_BYTES: Final = 1024 * 1024
_JOIN_LIMIT_BYTES: Final = 16 * 1024  # fewer bytes are joined with those that wait; more are a buffer of their own
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Budget(Protocol):
    """The budget of a worker's connections."""

    is_scarce: bool


class Connection(Protocol):
    """What a cycle needs of its connection."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    write_paused: bool
    on_leave: Callable[[], Any] | None
    counted_bytes: int

    @property
    def budget(self) -> Budget:
        """The budget that all connections of the worker share."""

    def server_headers(self) -> bytes:
        """Returns the header lines that every answer has."""

    def resume_reading(self) -> None:
        """Reads on, because more of the body is wanted."""

    def pause_reading(self) -> None:
        """Stops reading for now."""

    def read_directly(self, begun: Body, length: int) -> BodyReader:
        """Reads the rest of the body straight into its buffer. `begun` is what has arrived of it."""

    async def drain(self) -> None:
        """Waits until the client has caught up, or has disconnected."""

    def answered(self, cycle: RequestCycle) -> None:
        """The whole answer has been written."""

    def count_unverified(self) -> None:
        """Tells the budget that the number of unverified bytes has changed."""

    def detach(self, cycle: RequestCycle) -> Detached:
        """Gives its socket to another protocol. No HTTP follows."""


class BodyReader(Protocol):
    """Reads a body straight into its buffer."""

    def stop(self) -> bytearray:
        """Ends the reading: the body is complete, or no longer wanted. Returns what has come of it, once."""


class RequestCycle:
    """One request and its answer. What is written after the client has disconnected is discarded.

    Mutable state of the body: `_body` holds what has arrived and was not read; `body_bytes` counts what has arrived,
    without what was read of a request with a valid key; `complete`; `_unread_event` says that a piece, the end or a
    disconnect has come since the last read; and `_waiter` is the future of the reader that waits for one of them.
    Of the answer: `started`; `response_complete`; `_left` of Content-Length, or CHUNKED, UNTIL_CLOSE or SILENT;
    `_unsent`: bytes that wait for the next ones.
    Further: `disconnected`; `keep_alive`; `task` serves the request; `verified` says that it has a valid key; `address`
    is the one that a forwarded request counts against, and `refusal` the answer if that address has too many.
    """

    # fmt: off
    __slots__ = (
        "_body",
        "_extra",
        "_left",
        "_on_leave",
        "_unread_event",
        "_unsent",
        "_waiter",
        "address",
        "body_bytes",
        "complete",
        "connection",
        "disconnected",
        "expects_continue",
        "facts",
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

    def __init__(
        self,
        connection: Connection,
        scope: Scope,
        fields: dict[bytes, bytes],
        *,
        keep_alive: bool,
        facts: dict[Any, Any] | None = None,
    ) -> None:
        self.scope = scope
        self.fields, self.facts = fields, facts  # `fields`: the last one if a field occurs twice
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
        self._unsent = b""
        self._body: Body = b""
        self.body_bytes = 0
        self._on_leave: Callable[[], Any] | None = None
        self._unread_event = False
        self._waiter: asyncio.Future[None] | None = None

    # the request's body

    def add(self, piece: bytes) -> None:
        """Adds a piece to the body. Small pieces are joined, because each by itself would take ten times its size."""
        body = self._body
        self.body_bytes += len(piece)
        if not body:
            self._body = piece
        elif isinstance(body, bytearray):
            body += piece
        else:
            self._body = bytearray(body) + piece
        if len(self._body) > HIGH_WATER_BYTES and (self._waiter is None or self._waiter.done()):
            self.connection.pause_reading()  # whoever waited for a piece has one: libuv reads on before the next turn
        self.wake()

    def drop_body(self) -> None:
        """Drops the body: the request has been answered, or its client has disconnected."""
        self._body, self.body_bytes = b"", 0

    def wake(self) -> None:
        """Wakes the reader: a piece of the body, its end, the client's disconnect or the answer's end has come."""
        self._unread_event = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take_body(self) -> Body | None:
        """Returns the body once, if all of it has arrived. Otherwise None, and `read_body` reads it."""
        if not self.complete or self.disconnected:
            return None
        self.connection.resume_reading()  # otherwise a disconnect would not be noticed
        return self._take()

    async def read_body(self, length: int | None, max_bytes: int) -> Body | None:
        """Returns the body when it is complete, or None if the client has disconnected.

        Of a body larger than `max_bytes`, it returns more than `max_bytes`. `length` is what its head says, at most
        `max_bytes`. A long body is read straight into its buffer, without a copy.
        """
        self._allow_body()
        if length is not None and length >= _DIRECT_BYTES and not (self.complete or self.disconnected):
            return await self._read_directly(length)
        while not (self.complete or self.disconnected or len(self._body) > max_bytes):
            self.connection.resume_reading()
            await self._next_event()
        self.connection.resume_reading()
        return self._take() if self.complete or not self.disconnected else None

    async def _read_directly(self, length: int) -> Body | None:
        reader = self.connection.read_directly(self._take(), length)
        try:
            while not (self.complete or self.disconnected):
                await self._next_event()
        finally:
            body = reader.stop()
        return body if self.complete else None

    def _take(self) -> Body:
        body, self._body = self._body, b""
        if self.verified:
            self.body_bytes = 0
        self._unread_event = False
        return body

    def _allow_body(self) -> None:
        if self.expects_continue and not self.disconnected:
            self.expects_continue = False
            self.connection.transport.write(CONTINUE)

    async def _next_event(self) -> None:
        self._waiter = waiter = self.connection.loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def watch(self, on_leave: Callable[[], Any]) -> None:
        """Calls back when the client disconnects, or at once if it has. A connection has one watcher at a time."""
        if self.disconnected:
            on_leave()
        else:
            self.connection.on_leave = self._on_leave = on_leave

    def close(self) -> None:
        """Ends `watch`. Idempotent. The connection may already serve its next request."""
        if self._on_leave is not None and self.connection.on_leave is self._on_leave:
            self.connection.on_leave = None
        self._on_leave = None

    # an upgrade

    def detach(self) -> Detached:
        """Gives the connection to another protocol, which answers from now on."""
        self.started = self.response_complete = True
        return self.connection.detach(self)

    # the answer

    def add_headers(self, headers: Headers) -> None:
        """Adds headers to the answer, whoever writes it."""
        self._extra = headers

    @property
    def busy(self) -> bool:
        """Whether the client reads more slowly than its answer is written."""
        return self.connection.write_paused and not self.disconnected

    async def drain(self) -> None:
        """Waits until the client has caught up, or has disconnected."""
        await self.connection.drain()

    def start(self, status: int, headers: Headers) -> None:
        """Makes the answer's head, which goes out with the next write or by `flush`. Names are in lower case.

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
            elif name == b"connection":  # an application writes this field only to close the connection
                self.keep_alive, closing = False, b""
        lines = b"".join(parts)
        if not is_clean(lines, len(headers)):
            raise RuntimeError("a control character in an answer's head")
        framing = (b"" if self.keep_alive else closing) + (b"\r\n" if self._left >= 0 else self._frame(status))
        self.started = True
        self.expects_continue = False
        self._unsent = b"".join((STATUS_LINES[status], self.connection.server_headers(), lines, framing))
        if self.scope["method"] == "HEAD":
            self._left = SILENT

    def _frame(self, status: int) -> bytes:
        """Decides how an answer without a length ends. Returns the last lines of its head."""
        if status in _WITHOUT_BODY or self.scope["method"] == "HEAD":
            self._left = 0
        elif self.scope["http_version"] == "1.0":
            self._left = UNTIL_CLOSE
        else:
            return b"transfer-encoding: chunked\r\n\r\n"
        return b"\r\n"

    def write(self, data: Body) -> bool:
        """Writes body bytes. Returns False if the client is slower: `drain` must be awaited before the next write."""
        if self._left == CHUNKED:
            if len(data) > _COPY_LIMIT_BYTES:
                self._write_large(data)
            elif data:
                chunk = b"".join((self._unsent, b"%x\r\n" % len(data), data, b"\r\n"))
                self._unsent = b""
                if not self.disconnected:
                    self.connection.transport.write(chunk)
        elif data:
            self._send(self._counted(data))
        return not self.connection.write_paused or self.disconnected

    def _write_large(self, data: Body) -> None:
        """Writes a chunk without copying it."""
        head, self._unsent = b"%b%x\r\n" % (self._unsent, len(data)), b""
        if not self.disconnected:
            self.connection.transport.writelines((head, data, b"\r\n"))

    def buffer(self, data: Body) -> None:
        """Collects body bytes that go out with those that follow. For use shortly before `end`."""
        if len(data) > _COPY_LIMIT_BYTES:
            self.write(data)
        elif data:
            is_chunk = self._left == CHUNKED
            self._unsent += b"".join((b"%x\r\n" % len(data), data, b"\r\n")) if is_chunk else self._counted(data)

    def flush(self) -> None:
        """Writes what has been collected."""
        if self._unsent:
            self._send(b"")

    def end(self, data: Body) -> None:
        """Writes the last body bytes. The connection goes on to its next request."""
        if self._left == CHUNKED:
            if len(data) > _COPY_LIMIT_BYTES:
                self._write_large(data)
                data = b""
            data = b"".join((b"%x\r\n" % len(data), data, b"\r\n0\r\n\r\n")) if data else b"0\r\n\r\n"
        else:
            data = self._counted(data)
            if self._left > 0:
                raise RuntimeError("an answer shorter than its Content-Length")
        self._send(data)
        self.response_complete = True
        self._body, self.body_bytes = b"", 0
        self.wake()
        self.connection.answered(self)

    def _send(self, data: Body) -> None:
        unsent, self._unsent = self._unsent, b""
        if self.disconnected:
            return
        transport = self.connection.transport
        if unsent and len(data) > _JOIN_LIMIT_BYTES:
            transport.writelines((unsent, data))
        elif unsent or data:
            transport.write(unsent + data if unsent else data)

    def _counted(self, data: Body) -> Body:
        """Counts `data` against Content-Length. Returns what is sent of it."""
        if self._left >= 0:
            if len(data) > self._left:
                raise RuntimeError("an answer longer than its Content-Length")
            self._left -= len(data)
        return data if self._left != SILENT else b""

    # ASGI

    async def receive(self) -> dict[str, Any]:
        """Returns the next piece of the body, or `http.disconnect` after a disconnect or a whole answer."""
        self._allow_body()
        while not (self._unread_event or self.disconnected or self.response_complete):
            self.connection.resume_reading()
            await self._next_event()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": bytes(self._take()), "more_body": not self.complete}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Takes one message of an answer. Raises RuntimeError if it is not valid now."""
        if self.busy:
            await self.drain()
        if message["type"] == "http.response.start" and not self.started:
            self.start(message["status"], [(name.lower(), value) for name, value in message.get("headers", ())])
            self.flush()  # its body may take a while
        elif message["type"] == "http.response.body" and self.started and not self.response_complete:
            (self.write if message.get("more_body") else self.end)(message.get("body", b""))
        else:
            raise RuntimeError(f"the ASGI message {message['type']!r} is not valid now")
