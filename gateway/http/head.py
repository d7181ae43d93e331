"""HTTP/1.1 heads as bytes and as what ASGI makes of them. Pure.

lines(headers)                     header fields as they go out
STATUS_LINES[status]               the first line of an answer
target(url)                        a request's path, as text and as it came, and its query
upgrade(headers)                   the protocol that a request asks for
without_upgrade(...)               the same request without that wish
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

from gateway.types import Headers

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_OF_AN_UPGRADE: Final = frozenset({b"upgrade", b"http2-settings", b"connection"})


def lines(headers: Headers) -> bytes:
    """`name: value`, each with its line end."""
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def has_control(path: str) -> bool:
    """Whether a decoded path has a control character."""
    return _CONTROL.search(path) is not None


def target(url: bytes) -> tuple[str, bytes, bytes]:
    """Raises ValueError for what is none, and for control characters: rules of a front for a path may not see them."""
    raw, query = url, b""
    if url.startswith(b"/") and b"#" not in url:
        raw, _, query = url.partition(b"?")
    else:  # the form that proxies are sent (RFC 9112, 3.2.2), or one that is no path
        parsed = urlsplit(url)
        raw, query = parsed.path, parsed.query
    path = raw.decode("ascii")
    if "%" in path:
        path = unquote(path)
        if has_control(path):
            raise ValueError("a control character in a path")
    return path, raw, query


def upgrade(headers: Headers) -> bytes | None:
    """The protocol in lower case; None where none is asked for (RFC 9110, 7.8)."""
    fields = dict(headers)
    tokens = [token.strip() for token in fields.get(b"connection", b"").lower().split(b",")]
    return fields.get(b"upgrade", b"").lower() if b"upgrade" in tokens else None


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The whole head of a request, without what asks for an upgrade."""
    kept = [field for field in headers if field[0] not in _OF_AN_UPGRADE]
    if any(name == b"connection" and b"close" in value.lower() for name, value in headers):
        kept.append((b"connection", b"close"))
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version.encode(), lines(kept))


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES: Final = tuple(_status_line(status) for status in range(600))
"""By status; of those without a name, as uvicorn writes them: the phrase is empty."""
