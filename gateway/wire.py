"""The client's connection under uvicorn, without ASGI's messages: what is written goes straight to the transport.

    GatewayProtocol    uvicorn's HTTP protocol; gives each request a Wire, as scope["extensions"][EXTENSION]
    Wire               the request's body where it is here already; start, write and end of its answer

A write is a system call: the head waits for the body's first bytes, and `hold` lets bytes wait for those behind them.

ASGI stays: served by something else the application finds no Wire, and `Downstream` sends messages. Uvicorn keeps what
is its own: parsing, keep-alive, pipelining, flow control, shutdown. A message is a dictionary, a coroutine and two
regular expressions a header: 4 % of a JSON answer; with `Answer.pump`, 9 % of a stream (benchmarks/README.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

EXTENSION: Final = "gateway.wire"
_CONTROLS: Final = bytes((*range(9), *range(10, 32), 127))  # RFC 9110, 5.5: of the controls only the tab is legal
_WITHOUT_BODY: Final = frozenset({204, 304})
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2  # RFC 9112, 6.1: HTTP/1.0 has no chunks, its connection's end ends the answer
_JOIN_LIMIT_BYTES: Final = 16 * 1024  # fewer are copied behind what waits; more go beside it

Headers = list[tuple[bytes, bytes]]


class Wire:
    """One request's way to its client. A client that has left takes whatever is written.

    State that changes: `_left`, what Content-Length has promised and is still to come, else CHUNKED or UNTIL_CLOSE;
    `_held`, what waits for the next bytes; `_pieces` of a body that is being collected, `_room` for more of them, and
    `_collected`, who waits for it.
    """

    __slots__ = ("_collected", "_cycle", "_held", "_left", "_pieces", "_protocol", "_room")

    def __init__(self, cycle: RequestResponseCycle, protocol: GatewayProtocol) -> None:
        self._cycle = cycle
        self._protocol = protocol
        self._left = CHUNKED
        self._held = b""
        self._pieces: list[bytes] = []
        self._room = 0
        self._collected: asyncio.Future[bytes | None] | None = None

    def add_headers(self, headers: Headers) -> None:
        """More headers for the answer, whoever gives it."""
        self._cycle.default_headers = [*self._cycle.default_headers, *headers]

    def take_body(self) -> bytes | None:
        """The request's body if all of it is here, once; None: `receive` it."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        cycle.message_event.clear()
        cycle.flow.resume_reading()  # uvicorn stops at 64 KB; a client that leaves must be seen
        return body

    def collect(self, most_bytes: int) -> asyncio.Future[bytes | None]:
        """The body when it is whole, as the parser cut it and joined once; more than `most_bytes` where it is larger.

        None: the client has left. Cancelled, it collects no more.
        """
        cycle = self._cycle
        self._collected = waiter = self._protocol.loop.create_future()
        self._room = most_bytes
        if cycle.disconnected:
            self.collected(None)
            return waiter
        if cycle.waiting_for_100_continue:
            cycle.waiting_for_100_continue = False
            cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        here, cycle.body = bytes(cycle.body), bytearray()
        self.add(here)
        cycle.flow.resume_reading()
        return waiter

    def add(self, piece: bytes) -> bool:
        """Takes a piece of the body, if it is being collected."""
        if self._collected is None or self._collected.done():
            return False
        self._pieces.append(piece)
        self._room -= len(piece)
        if self._room < 0:
            self.collected(b"".join(self._pieces))
        return True

    def complete(self) -> None:
        """No more pieces come."""
        if self._collected is not None:
            self.collected(b"".join(self._pieces))

    def collected(self, body: bytes | None) -> None:
        """Ends the collection."""
        self._pieces.clear()
        if self._collected is not None and not self._collected.done():
            self._collected.set_result(body)

    def watch(self, on_leave: Callable[[], Any]) -> None:
        """Calls back when the client is gone: at once if it is. One connection, one running request, one watcher."""
        self._protocol.on_leave = on_leave
        if self._cycle.disconnected:
            self._protocol.tell()

    def close(self) -> None:
        """Ends `watch`. Idempotent."""
        self._protocol.on_leave = None

    @property
    def busy(self) -> bool:
        """The client is slower than what is written for it."""
        return self._cycle.flow.write_paused and not self._cycle.disconnected

    async def drain(self) -> None:
        """Waits until the client has caught up, or has left."""
        await self._cycle.flow.drain()

    def start(self, status: int, headers: Headers) -> None:
        """The answer's head, to go with what is written next, or by `flush`; names are in lower case.

        Raises RuntimeError for a control character in it.
        """
        cycle = self._cycle
        headers = [*cycle.default_headers, *headers]
        if (b"connection", b"close") in headers:
            headers.remove((b"connection", b"close"))
            cycle.keep_alive = False
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._left = int(value)
        if not cycle.keep_alive:
            parts.append(b"connection: close\r\n")
        if self._left < 0 and status in _WITHOUT_BODY:
            self._left = 0
        elif self._left < 0 and cycle.scope["http_version"] == "1.0":
            self._left = UNTIL_CLOSE
        elif self._left < 0:
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        lines = len(headers) + 2 + (not cycle.keep_alive) + (self._left == CHUNKED)
        if len(head.translate(None, _CONTROLS)) != len(head) - 2 * lines:
            raise RuntimeError("a control character in an answer's head")
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        self._held = head

    def write(self, data: bytes) -> None:
        """Writes body bytes."""
        if not data:
            return
        if self._left == CHUNKED:
            data = b"%b%x\r\n%b\r\n" % (self._held, len(data), data)
            self._held = b""
            if not self._cycle.disconnected:
                self._cycle.transport.write(data)
            return
        if self._left >= 0:
            self._count(data)
        self._send(data)

    def hold(self, data: bytes) -> None:
        """Writes body bytes with those that follow: `end` is near."""
        if not data:
            return
        if self._left >= 0:
            self._count(data)
        self._held += data if self._left != CHUNKED else b"%x\r\n%b\r\n" % (len(data), data)

    def flush(self) -> None:
        """Writes what waits."""
        if self._held:
            self._send(b"")

    def _send(self, data: bytes) -> None:
        held, self._held = self._held, b""
        transport = self._cycle.transport
        if self._cycle.disconnected:
            return
        if held and len(data) > _JOIN_LIMIT_BYTES:
            transport.writelines((held, data))
        elif held or data:
            transport.write(held + data if held else data)

    def end(self, data: bytes) -> None:
        """Writes the last body bytes; the connection is uvicorn's again."""
        cycle = self._cycle
        if self._left >= 0:
            self._count(data)
            if self._left:
                raise RuntimeError("an answer shorter than its Content-Length")
        elif self._left == CHUNKED:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._send(data)
        if cycle.disconnected:
            return
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    def _count(self, data: bytes) -> None:
        if len(data) > self._left:
            raise RuntimeError("an answer longer than its Content-Length")
        self._left -= len(data)


class GatewayProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, with a Wire in each request's scope. `on_leave`: whom the running request wants told."""

    def __init__(self, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.on_leave: Callable[[], Any] | None = None
        self._wire: Wire | None = None  # of the request whose body comes in

    def on_headers_complete(self) -> None:
        """Starts the request as uvicorn does; its task runs when the parser is done."""
        super().on_headers_complete()
        self._wire = wire = Wire(self.cycle, self)
        self.scope["extensions"] = {EXTENSION: wire}  # type: ignore[dict-item]  # ASGI lets servers add to it

    def on_body(self, body: bytes) -> None:
        """A piece of the body; uvicorn copies each three times more."""
        if self._wire is None or not self._wire.add(body):
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        super().on_message_complete()
        if self._wire is not None:
            self._wire.complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the running request, whichever of several it is."""
        super().connection_lost(exc)
        if self._wire is not None:
            self._wire.collected(None)
        self.tell()

    def tell(self) -> None:
        """The client has left. Once."""
        on_leave, self.on_leave = self.on_leave, None
        if on_leave is not None:
            on_leave()
