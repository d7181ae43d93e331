"""Parses requests from a client's bytes. httptools (llhttp) is the parser; this module adds bounds. No I/O.

    feed(bytes) -> rest     takes a part of the current head or body, and returns what follows it
    owner.on_head()         a head is complete: `head`
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

Trailer fields after a body are dropped (RFC 9110, 6.5.1). A head that differs from the one before in its length alone
is recognised instead of being parsed, and so is its body, of which only the length matters (known_head.py).
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.errors import GatewayError
from gateway.http.chunked_framing import ChunkedFraming, InvalidChunks
from gateway.http.head import target, upgrade, without_upgrade
from gateway.http.known_head import KnownHead, ParsedHead
from gateway.types import Headers, Scope

_INVALID_HTTP: Final = "This is not an HTTP/1.1 request, or two servers could read it differently."
_TOO_LARGE: Final = "The request line and headers may hold {} bytes at most."
_TOO_MANY: Final = "A request may have {} header fields at most."
_FRAMING: Final = "The body's chunks are invalid, or so small that most of what was sent is framing."
_END: Final = b"\r\n\r\n"
_VERSIONS: Final = (b" HTTP/1.1\r", b" HTTP/1.0\r")
_FREE_FRAMING_BYTES: Final = 16_384
"""For a chunked body: about 3,000 tiny chunks, which take 5 ms to read. More would keep other clients waiting."""
_TAIL_BYTES: Final = len(_VERSIONS[0])  # kept of a head's piece, to find what continues in the next piece
_REMEMBERED: Final = range(2, 5)
"""Which heads are remembered, of those in a row that had to be parsed: the first may be the only one of its connection,
and after some that differ the next will differ, too."""
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
        self.head: ParsedHead  # the one that came last
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
        self._url = b""
        self._headers: Headers = []
        self._known: KnownHead | None = None
        self._in_a_row = 0  # heads that were parsed
        self._is_known = False  # the parser has not seen the current request
        self._parser = HttpRequestParser(self)

    def scope(self, server: tuple[str, int | None] | None, client: tuple[str, int] | None, state: Any) -> Scope:
        """Returns the head that came last as an ASGI scope."""
        head = self.head
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "server": server,
            "client": client,
            "scheme": "http",
            "method": head.method,
            "root_path": "",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.headers,
            "state": state.copy(),
        }

    def feed(self, data: bytes) -> bytes:
        """Takes the bytes that belong to the current head or body. Returns those that follow. Raises GatewayError."""
        try:
            if not self._in_head:
                return self._feed_body(data)
            if self._known is not None and not self._tail and (found := self._known.length_in(data)):
                return self._take_known(self._known, *found, data)
            return self._feed_head(data)
        except HttpParserError:
            raise _invalid_http() from None

    def skip_body(self) -> None:
        """The rest of a body was read by somebody else. A parser that waits for it is replaced."""
        if not self._is_known:
            self._parser = HttpRequestParser(self)
        self._in_head, self._is_known = True, False

    def close(self) -> None:
        """Breaks the reference cycles between httptools, this object and its owner, which would need the collector."""
        self._known = None
        del self._parser, self._owner, self.on_body

    # httptools' callbacks

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header field."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head, self._head_whole = False, True
        parser, headers, fields = self._parser, self._headers, dict(self._headers)
        version: str = parser.get_http_version()
        chunked, upgrades = b"transfer-encoding" in fields, bool(parser.should_upgrade())
        if chunked or len(fields) != len(headers) or b"host" not in fields:
            self._refuse_ambiguous(fields, version)
        self._chunks = ChunkedFraming(min(self._max_head_bytes, _FREE_FRAMING_BYTES)) if chunked else None
        self._left = int(fields.get(b"content-length", 0))
        if upgrades:
            self._upgrade_ignored = upgrade(headers) not in (None, b"websocket")
            if self._upgrade_ignored:
                return
        keep_alive = version != "1.0" and bool(parser.should_keep_alive()) and not upgrades
        method = parser.get_method().decode("ascii")
        self.head = ParsedHead(method, *target(self._url), version, keep_alive, headers, fields, {})
        self._owner.on_head()

    def on_message_complete(self) -> None:
        """A body is complete."""
        if not self._upgrade_ignored:
            self._in_head = True
            self._owner.on_end()

    # inside

    def _take_known(self, known: KnownHead, digits: bytes, size: int, data: bytes) -> bytes:
        """Takes a head that is known but for the length of its body. Returns what follows it."""
        self._in_a_row = 1
        self._in_head, self._is_known = False, True
        self._left = int(digits)
        self.head = known.with_length(digits)
        self._owner.on_head()
        if not self._left:
            self._end_known()
        return data[size:]

    def _end_known(self) -> None:
        self._is_known = False
        self.on_message_complete()

    def _remember(self, head: bytes, *, is_whole: bool) -> None:
        """Remembers a head that was parsed, for the next request."""
        self._known = None
        self._in_a_row += 1
        if self._in_a_row not in _REMEMBERED or not is_whole or self._upgrade_ignored or self._chunks is not None:
            return
        parsed = self.head
        if parsed.keep_alive and len(parsed.fields) == len(parsed.headers):
            known = KnownHead.of(head, parsed)
            self._known = known if known is not None and known.size <= self._max_head_bytes else None

    def _feed_head(self, data: bytes) -> bytes:
        tail = self._tail
        if not tail:
            data = data.lstrip(b"\r\n")  # empty lines before a request are skipped (RFC 9112, 2.2)
            self._url, self._headers = b"", []
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
                raise _invalid_http()
        self._head_whole = False
        if end < 0:
            self._tail = seen[-_TAIL_BYTES:]
        else:
            self._tail = b""
            self.head_bytes = self._lines = 0
        self._parse_head(piece)
        if self._head_whole != (end >= 0):
            raise _invalid_http()
        if end >= 0:
            self._remember(piece, is_whole=not tail)
        return data[cut:] if cut < len(data) else b""

    def _feed_body(self, data: bytes) -> bytes:
        if self._is_known:
            size = min(len(data), self._left)
            self._left -= size
            self.on_body(data if size == len(data) else data[:size])
            if not self._left:
                self._end_known()
            return data[size:]
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
            raise _invalid_http()
        return data[cut:] if cut < len(data) else b""

    def _parse_head(self, piece: bytes) -> None:
        with_upgrade = False
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade:
            with_upgrade = self._upgrade_ignored
        if with_upgrade:
            self._parse_without_upgrade()

    def _parse_without_upgrade(self) -> None:
        """Parses the head again, without its upgrade.

        Java's HttpClient and `curl --http2` offer an upgrade to HTTP/2. httptools stops after such a head, and would
        not parse its body.
        """
        self._upgrade_ignored = False
        parser = self._parser
        head = without_upgrade(parser.get_method(), self._url, parser.get_http_version(), self._headers)
        self._parser = HttpRequestParser(self)
        self._url, self._headers, self._in_head = b"", [], True
        self._parser.feed_data(head)

    def _refuse_ambiguous(self, fields: dict[bytes, bytes], version: str) -> None:
        """Refuses what the table above lists. Raises GatewayError, which httptools passes on."""
        names = [name for name, _ in self._headers]
        modern = version == "1.1"
        coding = fields.get(b"transfer-encoding")
        if (
            any(names.count(name) > 1 for name in _SINGLE)
            or (modern and b"host" not in fields)
            or (coding is not None and not (modern and coding.strip().lower().endswith(b"chunked")))
        ):
            raise _invalid_http()


def _invalid_http() -> GatewayError:
    return GatewayError("invalid_http", _INVALID_HTTP)
