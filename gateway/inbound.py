"""uvicorn's HTTP/1.1 protocol with the bounds that it does not have.

| a client                                            | gets                                                |
|-----------------------------------------------------|-----------------------------------------------------|
| sends a head of more than `max_head_bytes`          | 431 headers_too_large, and the end of the connection|
| takes longer than `head_timeout_s` for a head       | 408 request_timeout (after silence: the end alone)  |
| goes on with a body after it was refused            | `LINGER_S` to read the answer, then the end         |
| sends what is no HTTP, or can be read in two ways   | 400 invalid_http; the end alone inside an answer    |
| asks for an upgrade to anything but WebSocket       | its answer over HTTP/1.1 (RFC 9110, 7.8)            |
| ends its side behind its request                    | its answer, if it is still there: see below         |
| takes nothing of an answer's rest for `keep_alive_s`| the end                                             |

Two lengths, or a length with chunked, are no HTTP to llhttp (RFC 9112, 6.3).

A client that ends its side (`shutdown(SHUT_WR)`, `nc -N`) and one that has left send the same FIN. Only what is sent to
them tells them apart: who has left answers with a reset. So an interim answer goes out, which every HTTP/1.1 client has
to skip (RFC 9110, 15.2; Python's http.client skips no other than 100). Inside an answer nothing can ask, and a client
that ends its side counts as gone.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any, Final, cast

from httptools import HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.app import Gateway
from gateway.errors import GatewayError

LINGER_S: Final = 5.0
_STILL_THERE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_PATIENCE_S: Final = 0.02  # an answer that comes so soon needs no question
_LOOKS_S: Final = (0.005, 0.05, 0.5, 2.0)  # apart: a reset takes one round trip, and one more behind a relay of bytes


class BoundedProtocol(HttpToolsProtocol):
    """One connection of a client. State that changes: what has come of the request's head, and the timers."""

    def __init__(self, *, max_head_bytes: int, head_timeout_s: float, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._max_head_bytes = max_head_bytes
        self._head_timeout_s = head_timeout_s
        self._in_head = True  # before the first request, too
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._data = b""  # what is being parsed
        self._again = b""  # what is to be parsed after it
        self._upgrade_ignored = False  # what follows the head is still to be parsed
        self._looking: asyncio.TimerHandle | None = None  # at a client that may have left

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """The clock for the first head starts."""
        super().connection_made(transport)
        self._set_timer(self._head_timeout_s, self._head_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives its connection."""
        self._set_timer(None)
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's always ends the connection
        """The client has ended its side, or has left. True: the connection stays for its answer."""
        if not self._is_in_answer(started=False) or self._in_head or self.pipeline or self.cycle.more_body:
            return False
        cycle = self.cycle
        if cycle.scope["http_version"] != "1.1":
            return False
        cycle.keep_alive = False
        self._looking = self.loop.call_later(_PATIENCE_S, self._ask_if_there, 0)
        return True

    def _ask_if_there(self, asked: int) -> None:
        """Asks and looks, a few times: nobody reads the socket after its end, so nothing tells of a reset."""
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        elif asked < len(_LOOKS_S) and not self.cycle.response_started:
            self.transport.write(_STILL_THERE)
            self._looking = self.loop.call_later(_LOOKS_S[asked], self._ask_if_there, asked + 1)

    def _is_in_answer(self, *, started: bool) -> bool:
        """Whether a request waits for its answer, or for the rest of it."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and cycle.response_started is started and not cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        """What the parser refused. Inside an answer nothing can be said."""
        del msg
        if self._is_in_answer(started=True):
            self.transport.close()
        else:
            self._refuse(GatewayError("invalid_http", _NO_HTTP))

    def data_received(self, data: bytes) -> None:
        """Counts what comes before a head is whole."""
        while data:
            went_on = self._in_head
            self._head_bytes += len(data)
            self._data, self._again = data, b""
            super().data_received(data)
            if not (self._in_head and went_on):
                self._head_bytes = 0
            data = self._again
        self._data = b""
        if not self._in_head:
            return
        if self._head_bytes > self._max_head_bytes and not self.transport.is_closing():
            self._refuse(GatewayError("headers_too_large", _TOO_LARGE.format(self._max_head_bytes)))
        elif self._timer is None:
            self._set_timer(self._head_timeout_s, self._head_too_slow)

    def on_message_begin(self) -> None:
        """A head starts."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """A head is whole. One that came in a single large read has not been counted yet."""
        self._in_head = False
        self._set_timer(None)
        if self._head_bytes > self._max_head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._max_head_bytes:
                self._refuse(GatewayError("headers_too_large", _TOO_LARGE.format(self._max_head_bytes)))
                return
        self._upgrade_ignored = self.parser.should_upgrade() and self._get_upgrade() not in (None, b"websocket")
        if not self._upgrade_ignored:
            super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Java's HttpClient and `curl --http2` ask for HTTP/2; the parser stops behind such a head: its body is lost.

        So a parser that has not seen the wish goes on. Called while the old one's HttpParserUpgrade is handled.
        """
        if not self._upgrade_ignored:
            return
        self._upgrade_ignored = False
        behind = sys.exc_info()[1].args[0]  # type: ignore[union-attr]  # see above
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b\r\n" % field for field in self.headers if field[0] not in _OF_AN_UPGRADE]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close\r\n")
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._again = b"".join([*lines, b"\r\n", self._data[behind:]])

    def on_message_complete(self) -> None:
        """The body is whole: nothing to linger for, and the connection is as idle as uvicorn would have it."""
        if self._upgrade_ignored or self.transport.is_closing():
            return
        if self.cycle.response_complete:
            self._set_timer(self.timeout_keep_alive, self.transport.close)
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Nothing is kept of the body of a head that was refused."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_response_complete(self) -> None:
        """Answered before its body was whole: the client may go on sending, but not for ever."""
        unread = self.cycle.more_body
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._set_timer(LINGER_S, self.transport.close)
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            self._looking = self.loop.call_later(self.timeout_keep_alive, self._end_if_stuck, unsent)

    def _end_if_stuck(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent == before:
            self.transport.abort()
        elif unsent:
            self._looking = self.loop.call_later(self.timeout_keep_alive, self._end_if_stuck, unsent)

    def _head_too_slow(self) -> None:
        if self._head_bytes:
            self._refuse(
                GatewayError("request_timeout", f"The headers did not arrive within {self._head_timeout_s:g} s.")
            )
        else:
            self.transport.close()

    def _refuse(self, error: GatewayError) -> None:
        """A request that no route has seen: counted all the same, with the headers that every answer has."""
        app, numeric_codes = cast("Any", self.app), False
        if isinstance(app, Gateway):
            numeric_codes = app.settings.errors.numeric_codes
            app.note_refused_head(error)
        status, headers, body = error.render(numeric_codes=numeric_codes)
        fields = [*self.server_state.default_headers, *headers]
        lines = [STATUS_LINE[status], *(b"%b: %b\r\n" % field for field in fields)]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", body]))
        self.transport.close()

    def _set_timer(self, delay_s: float | None, act: Any = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None else self.loop.call_later(delay_s, act)


_OF_AN_UPGRADE: Final = frozenset({b"upgrade", b"http2-settings", b"connection"})
_NO_HTTP: Final = "This is no HTTP/1.1 request, or one that could be read in two ways."
_TOO_LARGE: Final = "The request line and headers may hold {} bytes at most."
