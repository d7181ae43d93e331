"""Operators' paths in every spelling that a front and a gateway could read differently, and who was let through.

for target in spellings("/metrics"):
    assert told(front.url, target, ca_file=front.ca_file).is_refused
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.deploy.stack import trust

ADMIN_KEY: Final = "admin-key-of-the-fronts-tests-with-32-characters"
PATHS: Final = ("/metrics", "/dashboard", "/dashboard/login", "/admin/v1/teams")
# What each of them answers to somebody who reached it; a redirect to the dashboard has a status that is none below.
CONTENT: Final = (b"gateway_requests_total", b"gateway_build_info", b"<form", b'"data"')
_REFUSALS: Final = frozenset({400, 404, 405, 414})


@dataclass(frozen=True, slots=True)
class Told:
    """An answer as it came. `status` 0: the connection was closed without one."""

    status: int
    raw: bytes

    @property
    def is_refused(self) -> bool:
        """Whether it is a refusal that shows nothing of an operators' path, not even that it asks for a key."""
        body = self.raw.partition(b"\r\n\r\n")[2]
        return (self.status == 0 or self.status in _REFUSALS) and not any(mark in body for mark in CONTENT)


def spellings(path: str) -> Iterator[str]:
    """Yields request targets that mean the path, or could be taken for it by someone."""
    first, _, rest = path[1:].partition("/")
    behind = f"/{rest}" if rest else ""
    encoded = f"%{ord(first[0]):02x}{first[1:]}"
    yield from (path, f"{path}/", f"{path}?x", f"{path}#x", f"{path};x", f"{path}.", f"{path}%2f", f"{path}//")
    yield from (f"{path}{code}" for code in ("%0A", "%0D", "%09", "%00", "%20", "%7F", "%23", "%3F", "%3B", "%85"))
    yield from (f"/{first}{code}{behind}" for code in ("%0A", "%20", "%00", ";x", "%2f", "%5c", "/.", "/x/.."))
    yield from (f"/{encoded}{behind}", f"/%25{encoded[1:]}{behind}", f"/{first.upper()}{behind}", f"%2f{path[1:]}")
    yield from (f"/{front}{path}" for front in ("", ".", "x/..", "%2e", "x/%2e%2e", "v1/..", "v1/%2e%2e", "v1/x/../.."))
    yield from (f"/v1/..%2f{path[1:]}", f"/v1%2f..{path}", f"/v1/..;{path}", f"/v1/.%2e{path}", f"/v1/%252e%252e{path}")
    yield from (f"/v1/..%5c{path[1:]}", f"/healthz/..{path}", f"/healthz%2f..{path}", f"/readyz/%2e%2e{path}")
    yield from (
        f"/openai/..{path}",
        f"/openai/v1/../..{path}",
        f"/openai{path}",
        f"/v1{path}",
        f"/api/hello/../..{path}",
    )
    yield f"http://localhost{path}"
    yield f"http://localhost{path}%0A"


def told(url: str, target: str, *, ca_file: Path | None = None, key: str = ADMIN_KEY) -> Told:
    """Asks for a target, sent as it stands: an HTTP client would tidy it.

    The root key is with it, so that no check of a key stands in for the path's.
    """
    address = urlsplit(url)
    assert address.hostname is not None
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((address.hostname, address.port or 80), timeout=20))
        if ca_file is not None:
            connection = stack.enter_context(trust(ca_file).wrap_socket(connection, server_hostname=address.hostname))
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {address.hostname}\r\nAuthorization: Bearer {key}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        raw = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65_536):
                raw += data
    words = raw.split(b" ", 2)
    return Told(int(words[1]) if len(words) > 1 else 0, bytes(raw))
