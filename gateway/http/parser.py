"""A client's bytes as requests: httptools (llhttp) parses, this bounds the head and ignores upgrades. No I/O.

    feed(bytes) -> owner.on_head()       a head is whole: `method`, `url`, `version`, `headers`, `keep_alive` are its
                   owner.on_body(piece)  of the request whose head came last
                   owner.on_end()        its body is whole
                   GatewayError          headers_too_large, invalid_http: nothing behind it can be read
    in_head, head_bytes                  what has come of a head that is not whole

Two lengths, or a length with chunked, are no HTTP to llhttp (RFC 9112, 6.3). Fields behind a body are dropped: they are
none of the request's (RFC 9110, 6.5.1).
"""

from __future__ import annotations

from typing import Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.errors import GatewayError
from gateway.http.head import upgrade, without_upgrade
from gateway.types import Headers

_NO_HTTP: Final = "This is no HTTP/1.1 request, or one that could be read in two ways."
_TOO_LARGE: Final = "The request line and headers may hold {} bytes at most."


class Owner(Protocol):
    """Whose bytes they are."""

    def on_head(self) -> None:
        """A head is whole."""

    def on_body(self, body: bytes) -> None:
        """A piece of its body has come."""

    def on_end(self) -> None:
        """Its body is whole."""


class RequestParser:
    """One connection's. State that changes: all of it but `_owner` and the bound."""

    def __init__(self, owner: Owner, max_head_bytes: int) -> None:
        self.url = b""
        self.headers: Headers = []
        self.in_head = True  # before the first request, too
        self.head_bytes = 0
        self.on_body = owner.on_body  # the parser calls it itself
        self._owner = owner
        self._max_head_bytes = max_head_bytes
        self._again = b""  # what is to be parsed after what is being parsed
        self._upgrade_ignored = False  # what follows the head is still to be parsed
        self._refusal: GatewayError | None = None  # found inside a callback
        self._parser = self._fresh()

    @property
    def method(self) -> bytes:
        """Of the head that came last."""
        method: bytes = self._parser.get_method()
        return method

    @property
    def version(self) -> str:
        """HTTP's, as in "1.1"."""
        version: str = self._parser.get_http_version()
        return version

    @property
    def keep_alive(self) -> bool:
        """Whether the client lets its connection serve another request. HTTP/1.0's do not."""
        return self._parser.get_http_version() != "1.0" and bool(self._parser.should_keep_alive())

    def feed(self, data: bytes) -> None:
        """Takes what has come. Raises GatewayError."""
        while data:
            went_on = self.in_head
            self.head_bytes += len(data)
            self._again = b""
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as stopped:
                if self._upgrade_ignored:
                    self._ignore_upgrade(data[stopped.args[0] :])
            except HttpParserError:
                raise self._refusal or GatewayError("invalid_http", _NO_HTTP) from None
            if not (self.in_head and went_on):
                self.head_bytes = 0
            data = self._again
        if self.in_head and self.head_bytes > self._max_head_bytes:
            raise self._too_large()

    def skip_body(self) -> None:
        """The rest of a body went past the parser: the next head gets a new one."""
        self._parser = self._fresh()

    def close(self) -> None:
        """The parser holds this object's methods, and it its owner's: with them gone no cycle is left to collect."""
        del self._parser, self._owner, self.on_body

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """A head starts."""
        self.url = b""
        self.headers = []
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field."""
        if self.in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A head is whole. One that came in a single large read has not been counted yet."""
        self.in_head = False
        if self.head_bytes > self._max_head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._max_head_bytes:
                self._refusal = self._too_large()
                raise self._refusal
        if self._parser.should_upgrade():
            self._upgrade_ignored = upgrade(self.headers) not in (None, b"websocket")
            if self._upgrade_ignored:
                return
        self._owner.on_head()

    def on_message_complete(self) -> None:
        """A body is whole."""
        if not self._upgrade_ignored:
            self._owner.on_end()

    # inside

    def _fresh(self) -> HttpRequestParser:
        parser = HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # what follows "connection: close" is ignored
        return parser

    def _ignore_upgrade(self, behind: bytes) -> None:
        """Java's HttpClient and `curl --http2` ask for HTTP/2; the parser stops behind such a head: its body is lost.

        So a parser that has not seen the wish goes on.
        """
        self._upgrade_ignored = False
        head = without_upgrade(self.method, self.url, self.version, self.headers)
        self._parser = self._fresh()
        self._again = head + behind

    def _too_large(self) -> GatewayError:
        return GatewayError("headers_too_large", _TOO_LARGE.format(self._max_head_bytes))
