"""uvicorn's HTTP/1.1 protocol with the bounds that it does not have.

| a client                                            | gets                                                |
|-----------------------------------------------------|-----------------------------------------------------|
| sends a head of more than `max_head_bytes`          | 431 headers_too_large, and the end of the connection|
| takes longer than `head_timeout_s` for a head       | 408 request_timeout (after silence: the end alone)  |
| goes on with a body after it was refused            | `LINGER_S` to read the answer, then the end         |

Two lengths, or a length with chunked, never get here: llhttp refuses them (RFC 9112, 6.3).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import GatewayError

LINGER_S: Final = 5.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection of a client. State that changes: what has come of the request's head, and the timers."""

    def __init__(self, *, max_head_bytes: int, head_timeout_s: float, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._max_head_bytes = max_head_bytes
        self._head_timeout_s = head_timeout_s
        self._in_head = True  # before the first request, too
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """The clock for the first head starts."""
        super().connection_made(transport)
        self._set_timer(self._head_timeout_s, self._head_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives its connection."""
        self._set_timer(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes before a head is whole."""
        went_on = self._in_head
        self._head_bytes += len(data)
        super().data_received(data)
        if not (self._in_head and went_on):
            self._head_bytes = 0
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
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole: nothing to linger for, and the connection is as idle as uvicorn would have it."""
        if self.transport.is_closing():
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

    def _head_too_slow(self) -> None:
        if self._head_bytes:
            self._refuse(
                GatewayError("request_timeout", f"The headers did not arrive within {self._head_timeout_s:g} s.")
            )
        else:
            self.transport.close()

    def _refuse(self, error: GatewayError) -> None:
        status, headers, body = error.render()
        lines = [b"HTTP/1.1 %d \r\n" % status, *(b"%b: %b\r\n" % header for header in headers)]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", body]))
        self.transport.close()

    def _set_timer(self, delay_s: float | None, act: Any = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None else self.loop.call_later(delay_s, act)


_TOO_LARGE: Final = "The request line and headers may hold {} bytes at most."
