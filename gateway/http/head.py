"""HTTP/1.1 heads as bytes and as ASGI values. Pure.

lines(headers)                     header fields as bytes
STATUS_LINES[status]               the first line of an answer
target(url)                        the path of a request, decoded and raw, and its query
upgrade(headers)                   the protocol that a request asks to upgrade to
without_upgrade(...)               the head of the same request without the upgrade
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
    """Returns `name: value` lines, each with its line end."""
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def has_control(path: str) -> bool:
    """Returns whether a decoded path has a control character."""
    return _CONTROL.search(path) is not None


def target(url: bytes) -> tuple[str, bytes, bytes]:
    """Returns the path, decoded and raw, and the query. Raises ValueError if `url` is not a request's target.

    A control character in the path raises it, too: the rules for paths of a proxy in front might not match such a path.
    """
    raw, query = url, b""
    if url.startswith(b"/") and b"#" not in url:
        raw, _, query = url.partition(b"?")
    else:  # the absolute form, which clients send to proxies (RFC 9112, 3.2.2), or another one
        parsed = urlsplit(url)
        raw, query = parsed.path, parsed.query
    path = raw.decode("ascii")
    if "%" in path:
        path = unquote(path)
        if has_control(path):
            raise ValueError("a control character in a path")
    return path, raw, query


def upgrade(headers: Headers) -> bytes | None:
    """Returns the protocol in lower case, or None if no upgrade is asked for (RFC 9110, 7.8)."""
    fields = dict(headers)
    tokens = [token.strip() for token in fields.get(b"connection", b"").lower().split(b",")]
    return fields.get(b"upgrade", b"").lower() if b"upgrade" in tokens else None


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """Returns the whole head of a request, without the fields that ask for an upgrade."""
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
"""Indexed by status. The phrase of an unknown status is empty, as it is in uvicorn."""
