"""The opening handshake of a WebSocket connection to an upstream (RFC 6455, 4.1). Pure."""

from __future__ import annotations

from typing import Self

from websockets.http11 import Response

from gateway.types import Headers


class UpgradeRefused(Exception):
    """The upstream has refused the handshake with this answer."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body

    @classmethod
    def by(cls, response: Response) -> Self:
        """Returns the refusal that an answer is."""
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.raw_items()
        ]
        return cls(response.status_code, headers, bytes(response.body))


def with_upgrade(head: bytes, key: str) -> bytes:
    """Returns a request's head with the fields of the opening handshake."""
    return (
        head.removesuffix(b"\r\n")
        + b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: "
        + key.encode()
        + b"\r\n\r\n"
    )
