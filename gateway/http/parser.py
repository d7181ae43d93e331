"""Parses requests from a client's bytes. httptools (llhttp) is the parser; this module adds bounds. No I/O.

    feed(bytes) -> rest     takes a part of the current head or body, and returns what follows it
    owner.on_head()         a head is complete: `method`, `url`, `version`, `headers`, `fields`, `keep_alive`
    owner.on_body(piece)    a piece of that request's body
    owner.on_end()          that body is complete
    GatewayError            headers_too_large, invalid_http: nothing that follows can be parsed
    head_bytes              the number of bytes of an incomplete head

A head is cut out before it is parsed. So its bound is exact whatever follows it, and no request is parsed before the
connection is ready to answer it. Upgrades to anything but WebSocket are ignored. A request that two servers could read
differently is refused (RFC 9112, 11.2):

| a request with                                                                  | refused by                        |
|---------------------------------------------------------------------------------|-----------------------------------|
| two lengths, or a length and chunked; a bare CR or LF; a folded line            | llhttp                            |
| two Host, Transfer-Encoding or Idempotency-Key fields, or two that carry a key  | this module                       |
| no Host in HTTP/1.1 (RFC 9112, 3.2)                                             | this module                       |
| a version other than HTTP/1.0 and HTTP/1.1, or a protocol like RTSP             | this module                       |
| Transfer-Encoding in HTTP/1.0, or one that does not end in chunked              | this module (RFC 9112, 6.1)       |

Trailer fields after a body are dropped (RFC 9110, 6.5.1).
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.errors import GatewayError
from gateway.http.chunked_framing import ChunkedFraming, InvalidChunks
from gateway.http.head import target, upgrade, without_upgrade
from gateway.types import Headers, Scope

_NO_HTTP: Final = "This is not an HTTP/1.1 request, or two servers could read it differently."
_TOO_LARGE: Final = "The request line and headers may hold {} bytes at most."
_TOO_MANY: Final = "A request may have {} header fields at most."
_FRAMING: Final = "The body's chunks are invalid, or so small that most of what was sent is framing."
_END: Final = b"\r\n\r\n"
_VERSIONS: Final = (b" HTTP/1.1\r", b" HTTP/1.0\r")
_FREE_FRAMING_BYTES: Final = 16_384
"""For a chunked body: about 3,000 tiny chunks, which take 5 ms to read. More would keep other clients waiting."""
_TAIL_BYTES: Final = len(_VERSIONS[0])  # kept of a head's piece, to find what continues in the next piece
_SINGLE: Final = (b"api-key", b"authorization", b"host", b"idempotency-key", b"transfer-encoding", b"x-api-key")


class Owner(Protocol):
    """The connection that the bytes come from."""

    def on_head(self) -> None:
        """A head is complete."""

    def on_body(self, body: bytes) -> None:
        """A piece of its body has arrived."""

    def on_end(self) -> None:
        """Its body is complete."""


class RequestParser:
    """The parser of one connection. Mutable, except for `_owner` and the bounds."""

    def __init__(self, owner: Owner, max_head_bytes: int, max_head_fields: int) -> None:
        self.url = b""
        self.headers: Headers = []
        self.fields: dict[bytes, bytes] = {}  # the last one if a field occurs twice
        self.head_bytes = 0
        self.on_body = owner.on_body  # httptools calls it
        self._owner = owner
        self._max_head_bytes = max_head_bytes
        self._max_head_fields = max_head_fields
        self._lines = 0  # line ends in the incomplete head
        self._tail = b""  # its last bytes
        self._in_head = True
        self._head_whole = False
        self._left = 0  # bytes that are missing of a body with a length
        self._chunks: ChunkedFraming | None = None  # of a body without a length
        self._upgrade_ignored = False
        self._parser = HttpRequestParser(self)

    @property
    def method(self) -> bytes:
        """The method of the head that came last."""
        method: bytes = self._parser.get_method()
        return method

    @property
    def version(self) -> str:
        """The version of HTTP, such as "1.1"."""
        version: str = self._parser.get_http_version()
        return version

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may serve another request: not after HTTP/1.0, nor after an upgrade."""
        parser = self._parser
        return parser.get_http_version() != "1.0" and bool(parser.should_keep_alive()) and not parser.should_upgrade()

    def scope(self, server: tuple[str, int | None] | None, client: tuple[str, int] | None, state: Any) -> Scope:
        """Returns the head that came last as an ASGI scope. Raises ValueError if its target is invalid."""
        path, raw_path, query = target(self.url)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.version,
            "server": server,
            "client": client,
            "scheme": "http",
            "method": self.method.decode("ascii"),
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": state.copy(),
        }

    def feed(self, data: bytes) -> bytes:
        """Takes the bytes that belong to the current head or body. Returns those that follow. Raises GatewayError."""
        try:
            return self._feed_head(data) if self._in_head else self._feed_body(data)
        except HttpParserError:
            raise _no_http() from None

    def skip_body(self) -> None:
        """The rest of a body was read by somebody else. The next head gets a new parser."""
        self._parser = HttpRequestParser(self)
        self._in_head = True

    def close(self) -> None:
        """Breaks the reference cycles between httptools, this object and its owner, which would need the collector."""
        del self._parser, self._owner, self.on_body

    # httptools' callbacks

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the request's target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header field."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head, self._head_whole = False, True
        self.fields = fields = dict(self.headers)
        chunked = b"transfer-encoding" in fields
        if chunked or len(fields) != len(self.headers) or b"host" not in fields:
            self._refuse_two_readings(fields)
        self._chunks = ChunkedFraming(min(self._max_head_bytes, _FREE_FRAMING_BYTES)) if chunked else None
        self._left = int(fields.get(b"content-length", 0))
        if self._parser.should_upgrade():
            self._upgrade_ignored = upgrade(self.headers) not in (None, b"websocket")
            if self._upgrade_ignored:
                return
        self._owner.on_head()

    def on_message_complete(self) -> None:
        """A body is complete."""
        if not self._upgrade_ignored:
            self._in_head = True
            self._owner.on_end()

    # inside

    def _feed_head(self, data: bytes) -> bytes:
        tail = self._tail
        if not tail:
            data = data.lstrip(b"\r\n")  # empty lines before a request are skipped (RFC 9112, 2.2)
            self.url, self.headers = b"", []
        seen = tail + data if tail else data
        end = seen.find(_END)
        cut = end + len(_END) - len(tail) if end >= 0 else len(data)
        piece = data if cut == len(data) else data[:cut]
        before = self._lines
        self.head_bytes += len(piece)
        self._lines += piece.count(b"\n")
        if self.head_bytes > self._max_head_bytes:
            raise GatewayError("headers_too_large", _TOO_LARGE.format(self._max_head_bytes))
        if self._lines > self._max_head_fields + 2:  # and the request line and the empty line
            raise GatewayError("headers_too_large", _TOO_MANY.format(self._max_head_fields))
        if self._lines and not before:
            at = seen.find(b"\n") - _TAIL_BYTES
            if at < 0 or not seen.startswith(_VERSIONS, at):
                raise _no_http()
        self._head_whole = False
        if end < 0:
            self._tail = seen[-_TAIL_BYTES:]
        else:
            self._tail = b""
            self.head_bytes = self._lines = 0
        with_upgrade = False
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade:
            with_upgrade = self._upgrade_ignored
        if with_upgrade:
            self._parse_without_upgrade()
        if self._head_whole != (end >= 0):
            raise _no_http()
        return data[cut:] if cut < len(data) else b""

    def _feed_body(self, data: bytes) -> bytes:
        if self._chunks is None:
            cut = min(len(data), self._left)
            self._left -= cut
            ends = not self._left
        else:
            try:
                end = self._chunks.end(data)
            except InvalidChunks:
                raise GatewayError("invalid_http", _FRAMING) from None
            ends = end is not None
            cut = len(data) if end is None else end
        self._parser.feed_data(data if cut == len(data) else data[:cut])
        if self._in_head != ends:
            raise _no_http()
        return data[cut:] if cut < len(data) else b""

    def _parse_without_upgrade(self) -> None:
        """Parses the head again, without its upgrade.

        Java's HttpClient and `curl --http2` offer an upgrade to HTTP/2. httptools stops after such a head, and would
        not parse its body.
        """
        self._upgrade_ignored = False
        head = without_upgrade(self.method, self.url, self.version, self.headers)
        self._parser = HttpRequestParser(self)
        self.url, self.headers, self._in_head = b"", [], True
        self._parser.feed_data(head)

    def _refuse_two_readings(self, fields: dict[bytes, bytes]) -> None:
        """Refuses what the table above lists. Raises GatewayError, which httptools passes on."""
        names = [name for name, _ in self.headers]
        modern = self.version == "1.1"
        coding = fields.get(b"transfer-encoding")
        if (
            any(names.count(name) > 1 for name in _SINGLE)
            or (modern and b"host" not in fields)
            or (coding is not None and not (modern and coding.strip().lower().endswith(b"chunked")))
        ):
            raise _no_http()


def _no_http() -> GatewayError:
    return GatewayError("invalid_http", _NO_HTTP)
