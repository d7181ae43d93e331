"""The client's connection under uvicorn, without ASGI's messages: what is written goes straight to the transport.

    GatewayProtocol    uvicorn's HTTP protocol; gives each request a Wire, as scope["extensions"][EXTENSION]
    Wire               the request's body where it is here already; start, write and end of its answer

ASGI stays: served by something else the application finds no Wire, and `Downstream` sends messages. Uvicorn keeps what
is its own: parsing, keep-alive, pipelining, flow control, shutdown. A message is a dictionary, a coroutine and two
regular expressions a header: 4 % of a JSON answer; with `Answer.pump`, 9 % of a stream (benchmarks/README.md).
"""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

EXTENSION: Final = "gateway.wire"
_CONTROLS: Final = bytes((*range(9), *range(10, 32), 127))  # RFC 9110, 5.5: of the controls only the tab is legal
_WITHOUT_BODY: Final = frozenset({204, 304})
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2  # RFC 9112, 6.1: HTTP/1.0 has no chunks, its connection's end ends the answer

Headers = list[tuple[bytes, bytes]]


class Wire:
    """One request's way to its client. A client that has left takes whatever is written.

    State that changes: `_left`, what Content-Length has promised and is still to come, else CHUNKED or UNTIL_CLOSE.
    """

    __slots__ = ("_cycle", "_left")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._left = CHUNKED

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
        return body

    @property
    def busy(self) -> bool:
        """The client is slower than what is written for it."""
        return self._cycle.flow.write_paused and not self._cycle.disconnected

    async def drain(self) -> None:
        """Waits until the client has caught up, or has left."""
        await self._cycle.flow.drain()

    def start(self, status: int, headers: Headers) -> None:
        """Writes the answer's head; names are in lower case. Raises RuntimeError for a control character in it."""
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
        if not cycle.disconnected:
            cycle.transport.write(head)

    def write(self, data: bytes) -> None:
        """Writes body bytes."""
        if self._left >= 0:
            self._count(data)
        if data and not self._cycle.disconnected:
            self._cycle.transport.write(data if self._left != CHUNKED else b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, data: bytes) -> None:
        """Writes the last body bytes; the connection is uvicorn's again."""
        cycle = self._cycle
        if self._left >= 0:
            self._count(data)
            if self._left:
                raise RuntimeError("an answer shorter than its Content-Length")
        elif self._left == CHUNKED:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if cycle.disconnected:
            return
        if data:
            cycle.transport.write(data)
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
    """Uvicorn's protocol, with a Wire in each request's scope."""

    def on_headers_complete(self) -> None:
        """Starts the request as uvicorn does; its task runs when the parser is done."""
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: Wire(self.cycle)}  # type: ignore[dict-item]  # ASGI lets servers add to it
