"""Request heads as bytes.

    POST /v1/responses HTTP/1.1      method, base path, target
    host: ...                        prebuilt, once per origin
    name: value ...                  as given; hop-by-hop fields, host and lengths are dropped (RFC 9110, 7.6.1)
    content-length: n                exactly one length, never chunked

A head is refused as a whole where its control characters are not exactly the line ends that were put there, so no value
can end a line, whatever it holds. That is one pass in C over the joined bytes instead of one check per value.
"""

import re

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
_CONTROLS = bytes((*range(9), *range(10, 32), 127))  # RFC 9110, 5.5: of the controls only the tab is legal in a field
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})  # RFC 9110, 8.6: these say `content-length: 0`, others leave it out
_NEVER = frozenset({b"HEAD", b"CONNECT"})  # their answers are framed otherwise
_MAX_KNOWN_NAMES = 512


class RequestHeads:
    """Builds the request heads for one origin; remembers the field names that it has checked (bounded)."""

    __slots__ = ("_known", "_path", "_second_line")

    def __init__(self, origin: Origin) -> None:
        self._path = b" " + origin.path
        self._second_line = b" HTTP/1.1\r\nhost: " + origin.authority + b"\r\n"
        self._known: dict[bytes, bytes] = {}  # mutable: name -> b"name: ", or b"" for a field that is dropped

    def build(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body_size: int) -> bytes:
        """Return the head with its empty line.

        Raises:
            ValueError: a method, target, name or value that could be read as something else.
        """
        if not method.isalpha() or not method.isupper() or method in _NEVER:
            raise ValueError("the method must be upper-case letters, and not HEAD or CONNECT")
        if not target.startswith(b"/") or b" " in target or b"#" in target or not target.isascii():
            raise ValueError("the target must be an ASCII path, with or without a query")
        parts = [method, self._path, target, self._second_line]
        known = self._known
        lines = 3
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
        if len(head.translate(None, _CONTROLS)) != len(head) - 2 * lines:
            raise ValueError("a control character (CR, LF, NUL, ...) in a target, header name or header value")
        return head

    def fields(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Check as `build` does, for another library to write: return the headers that may go on, values trimmed.

        Raises:
            ValueError: as `build`.
        """
        self.build(method, target, headers, 0)
        return [(name, value.strip(b" \t")) for name, value in headers if name.lower() not in _DROPPED]

    def _learn(self, name: bytes) -> bytes:
        """Check a field name that is new here; return what stands before its value, `b""` to drop the field."""
        if not _TOKEN.fullmatch(name):
            raise ValueError("a header name that is not a token (RFC 9110, 5.6.2)")
        field = b"" if name.lower() in _DROPPED else name + b": "
        if len(self._known) < _MAX_KNOWN_NAMES:
            self._known[name] = field
        return field
