"""Request heads as bytes.

    POST /v1/responses HTTP/1.1      method, base path, target
    host: ...                        built once per origin
    name: value ...                  as given; hop-by-hop fields, host and lengths are dropped (RFC 9110, 7.6.1)
    content-length: n                exactly one length, never chunked

A head is refused if its control characters are not exactly the line ends that this module wrote. No value can therefore
end a line. The check is one pass in C over the joined bytes, instead of one check per value.
"""

import re

from gateway.protocol.header_fields import is_clean
from gateway.upstream.forward_proxy import ForwardProxy
from gateway.upstream.origin import Origin

_DROPPED = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110, 8.6: these send `content-length: 0`, the others leave it out
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})
_NEVER = frozenset({b"HEAD", b"CONNECT"})  # their answers are framed differently
_MAX_KNOWN_NAMES = 512


class RequestHeads:
    """Builds the request heads for one origin. Mutable: a bounded cache of the field names that it has checked."""

    __slots__ = ("_first_lines", "_known", "_own_lines", "_path")

    def __init__(self, origin: Origin, http_proxy: ForwardProxy | None = None) -> None:
        """`http_proxy`: a forward proxy, which gets absolute targets (RFC 9112, 3.2.2)."""
        self._path = b" " + (b"" if http_proxy is None else b"http://" + origin.authority) + origin.path
        self._first_lines = (
            b" HTTP/1.1\r\nhost: " + origin.authority + b"\r\n" + (http_proxy.fields() if http_proxy else b"")
        )
        self._own_lines = self._first_lines.count(b"\r\n") + 1
        self._known: dict[bytes, bytes] = {}  # name -> b"name: ", or b"" for a field that is dropped

    def build(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body_size: int) -> bytes:
        """Return the head including its final empty line.

        Raises:
            ValueError: a method, target, name or value that could be parsed differently.
        """
        if not method.isalpha() or not method.isupper() or method in _NEVER:
            raise ValueError("the method must be upper-case letters, and not HEAD or CONNECT")
        if not target.startswith(b"/") or b" " in target or b"#" in target or not target.isascii():
            raise ValueError("the target must be an ASCII path, with or without a query")
        parts = [method, self._path, target, self._first_lines]
        known = self._known
        lines = self._own_lines
        for name, value in headers:
            field = known.get(name)
            if field is None:
                field = self._learn(name)
            if field:
                parts += (field, value, b"\r\n")
                lines += 1
        if body_size or method in _WITH_BODY:
            parts.append(b"content-length: %d\r\n\r\n" % body_size)
            lines += 1
        else:
            parts.append(b"\r\n")
        head = b"".join(parts)
        if not is_clean(head, lines):
            raise ValueError("a control character (CR, LF, NUL, ...) in a target, header name or header value")
        return head

    def fields(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Check the fields as `build` does, for a library that writes them. Return the permitted headers, trimmed.

        Raises:
            ValueError: as `build`.
        """
        self.build(method, target, headers, 0)
        return [(name, value.strip(b" \t")) for name, value in headers if name.lower() not in _DROPPED]

    def _learn(self, name: bytes) -> bytes:
        """Check a new field name. Return what precedes its value, or `b""` to drop the field."""
        if not _TOKEN.fullmatch(name):
            raise ValueError("a header name that is not a token (RFC 9110, 5.6.2)")
        field = b"" if name.lower() in _DROPPED else name + b": "
        if len(self._known) < _MAX_KNOWN_NAMES:
            self._known[name] = field
        return field
