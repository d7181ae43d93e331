"""A client's bytes as requests: httptools (llhttp) parses; this bounds heads and framing, and ignores upgrades. No I/O.

    feed(bytes) -> rest     takes the rest of a head, or a piece of a body, and gives what is behind it
    owner.on_head()         a head is whole: `method`, `url`, `version`, `headers`, `fields`, `keep_alive` are its
    owner.on_body(piece)    of the request whose head came last
    owner.on_end()          its body is whole
    GatewayError            headers_too_large, invalid_http: nothing behind it can be read
    head_bytes              what has come of a head that is not whole

A head is cut out before it is parsed, so its bound is exact however much comes behind it, and no more of a connection
is parsed than whoever feeds wants to answer. What two servers could read in two ways is refused (RFC 9112, 11.2):

| a request with                                                           | by                        |
|--------------------------------------------------------------------------|---------------------------|
| two lengths, or a length with chunked; a bare CR or LF; a folded line    | llhttp                    |
| two Host, Transfer-Encoding or Idempotency-Key fields, or two of a key's | this                      |
| no Host in HTTP/1.1 (RFC 9112, 3.2)                                      | this                      |
| a version that is neither HTTP/1.0 nor HTTP/1.1, or a protocol like RTSP | this                      |
| Transfer-Encoding in HTTP/1.0, or one that does not end in chunked       | this (RFC 9112, 6.1)      |

Fields behind a body are dropped: they are none of the request's (RFC 9110, 6.5.1).
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.errors import GatewayError
from gateway.http.chunked_framing import ChunkedFraming, InvalidChunks
from gateway.http.head import target, upgrade, without_upgrade
from gateway.types import Headers, Scope

_NO_HTTP: Final = "This is no HTTP/1.1 request, or one that could be read in two ways."
_TOO_LARGE: Final = "The request line and headers may hold {} bytes at most."
_TOO_MANY: Final = "A request may have {} header fields at most."
_FRAMING: Final = "The body's chunks are none, or so small that most of what was sent is framing."
_END: Final = b"\r\n\r\n"
_VERSIONS: Final = (b" HTTP/1.1\r", b" HTTP/1.0\r")
_FREE_FRAMING_BYTES: Final = 16_384
"""Of a chunked body: some 3,000 tiny chunks, which take 5 ms to read. More would keep other clients waiting."""
_TAIL_BYTES: Final = len(_VERSIONS[0])  # of a head's piece, to see what lies across the next one's border
_SINGLE: Final = (b"api-key", b"authorization", b"host", b"idempotency-key", b"transfer-encoding", b"x-api-key")


class Owner(Protocol):
    """Whose bytes they are."""

    def on_head(self) -> None:
        """A head is whole."""

    def on_body(self, body: bytes) -> None:
        """A piece of its body has come."""

    def on_end(self) -> None:
        """Its body is whole."""


class RequestParser:
    """One connection's. State that changes: all of it but `_owner` and the bounds."""

    def __init__(self, owner: Owner, max_head_bytes: int, max_head_fields: int) -> None:
        self.url = b""
        self.headers: Headers = []
        self.fields: dict[bytes, bytes] = {}  # the last one where a field occurs twice
        self.head_bytes = 0
        self.on_body = owner.on_body  # the parser calls it itself
        self._owner = owner
        self._max_head_bytes = max_head_bytes
        self._max_head_fields = max_head_fields
        self._lines = 0  # of the head that is coming
        self._tail = b""  # its last bytes
        self._in_head = True
        self._head_whole = False
        self._left = 0  # of a body with a length
        self._chunks: ChunkedFraming | None = None  # of one without
        self._upgrade_ignored = False
        self._parser = HttpRequestParser(self)

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
        """Whether the connection may serve another request. HTTP/1.0's do not; behind an upgrade no HTTP is left."""
        parser = self._parser
        return parser.get_http_version() != "1.0" and bool(parser.should_keep_alive()) and not parser.should_upgrade()

    def scope(self, server: tuple[str, int | None] | None, client: tuple[str, int] | None, state: Any) -> Scope:
        """The head that came last as ASGI has it. Raises ValueError for a target that is none."""
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
        """Takes what belongs to the head or the body that is coming; gives what is behind it. Raises GatewayError."""
        try:
            return self._feed_head(data) if self._in_head else self._feed_body(data)
        except HttpParserError:
            raise _no_http() from None

    def skip_body(self) -> None:
        """The rest of a body went past the parser: the next head gets a new one."""
        self._parser = HttpRequestParser(self)
        self._in_head = True

    def close(self) -> None:
        """The parser holds this object's methods, and it its owner's: with them gone no cycle is left to collect."""
        del self._parser, self._owner, self.on_body

    # httptools' callbacks

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A head is whole."""
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
        """A body is whole."""
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
        if self._lines > self._max_head_fields + 2:  # the request line, and the empty one
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
        """Java's HttpClient and `curl --http2` ask for HTTP/2; the parser stops behind such a head: its body is lost.

        So a parser that has not seen the wish goes on.
        """
        self._upgrade_ignored = False
        head = without_upgrade(self.method, self.url, self.version, self.headers)
        self._parser = HttpRequestParser(self)
        self.url, self.headers, self._in_head = b"", [], True
        self._parser.feed_data(head)

    def _refuse_two_readings(self, fields: dict[bytes, bytes]) -> None:
        """See the table above. Raises GatewayError, which the parser passes on as an error of its own."""
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
