"""The opening handshake of a WebSocket connection (RFC 6455, 4.2), from the head of a request. No I/O.

    is_upgrade(fields)                    whether a request asks for WebSocket
    offered_protocols(fields)             the subprotocols that it offers
    accept(scope, options, subprotocol)   -> the protocol's state, and the head of the 101 answer

The library `websockets` does the framing. Compression keeps no context between messages, so that an idle connection
holds no compressor. An inflated message has the same bound as any other.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter, Subprotocol

from gateway.errors import GatewayError
from gateway.http.head import lines
from gateway.types import Headers, Scope

_LOG: Final = logging.getLogger("gateway.websocket")
_VERSION: Final = b"13"
_NEEDED: Final = frozenset(
    {b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"}
)
_MIN_COMPRESSED_BYTES: Final = 1024
"""Smaller messages, such as deltas, are not compressed: each would be compressed by itself, and gain nothing."""
_MEMORY_LEVEL: Final = 5


class WebSocketOptions(NamedTuple):
    """The largest message, inflated or not, and whether messages may be compressed."""

    max_message_bytes: int
    compression: bool = True


def is_upgrade(fields: Mapping[bytes, bytes]) -> bool:
    """Returns whether a request asks for WebSocket, validly or not."""
    return fields.get(b"upgrade", b"").strip().lower() == b"websocket"


def offered_protocols(headers: Headers) -> list[str]:
    """Returns the subprotocols that a request offers, in its order."""
    named = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-protocol"]
    return [token.strip() for value in named for token in value.split(",") if token.strip()]


def accept(
    scope: Scope, options: WebSocketOptions, subprotocol: str | None, own: Headers
) -> tuple[ServerProtocol, list[bytes]]:
    """Returns the protocol's state and the answer. Raises GatewayError `invalid_http`, `upgrade_unsupported`.

    `subprotocol` is the one to choose, which the request has offered. `own` are further headers of the answer.
    """
    headers: Headers = scope["headers"]
    if dict(headers).get(b"sec-websocket-version", _VERSION).strip() != _VERSION:
        # RFC 6455, 4.2.2: the answer names the version
        raise GatewayError(
            "upgrade_unsupported",
            "This gateway speaks version 13 of WebSocket.",
            headers=((b"sec-websocket-version", _VERSION),),
        )
    protocol = ServerProtocol(
        extensions=[_DeflateFactory()] if options.compression else None,
        select_subprotocol=lambda _protocol, _offered: Subprotocol(subprotocol) if subprotocol else None,
        max_size=options.max_message_bytes,
        logger=_LOG,
    )
    # Only the fields that the handshake needs are parsed again, neither the key nor a long header.
    protocol.receive_data(b"GET / HTTP/1.1\r\n%b\r\n" % lines([field for field in headers if field[0] in _NEEDED]))
    request = next((event for event in protocol.events_received() if isinstance(event, Request)), None)
    if request is None or scope["http_version"] != "1.1":
        raise GatewayError("invalid_http", "This is not a valid opening handshake of WebSocket.")
    response = protocol.accept(request)
    if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
        reason = f"This is not a valid opening handshake of WebSocket: {protocol.handshake_exc}."
        raise GatewayError("invalid_http", reason)
    for name, value in own:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    protocol.send_response(response)
    return protocol, protocol.data_to_send()


class Deflate(PerMessageDeflate):
    """Compression (RFC 7692) that leaves small messages uncompressed."""

    def encode(self, frame: Frame) -> Frame:
        """See `Extension`."""
        return frame if len(frame.data) < _MIN_COMPRESSED_BYTES else super().encode(frame)

    @classmethod
    def like(cls, other: PerMessageDeflate) -> Deflate:
        """Returns compression with the same parameters, which may run beside the other in a thread."""
        return cls(
            other.remote_no_context_takeover,
            other.local_no_context_takeover,
            other.remote_max_window_bits,
            other.local_max_window_bits,
            other.compress_settings,
        )


class _DeflateFactory(ServerPerMessageDeflateFactory):
    """Negotiates compression that keeps no context between messages, on either side."""

    def __init__(self) -> None:
        super().__init__(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            compress_settings={"memLevel": _MEMORY_LEVEL},
        )

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Deflate]:
        """See `ServerExtensionFactory`."""
        agreed, made = super().process_request_params(params, accepted_extensions)
        return list(agreed), Deflate.like(made)
