"""Answers GET /v1/responses with an upgrade: checks the key, the origin and the bounds, and begins the session.

| an upgrade                                                    | answer                                             |
|---------------------------------------------------------------|----------------------------------------------------|
| WebSocket is off, by `websocket.enabled` or on all routes     | 426; clients such as Codex then use HTTP at once   |
| the ASGI server is not the gateway's own                      | the same                                           |
| the gateway is stopping                                       | 503 with Retry-After                               |
| a page whose origin is not in `server.cors_origins`           | 403                                                |
| no valid key                                                  | 401                                                |
| a dry run                                                     | 400, because a dry run is a POST                   |
| no valid handshake, or another version                        | 400, 426                                           |
| the key has `max_per_key` WebSockets already                  | 429                                                |

Browsers cannot set headers. They send the key as the subprotocol `openai-insecure-api-key.<key>`, next to another
subprotocol that the answer selects. The key itself is never selected, and no turn has it in its headers. Turns have no
idempotency key either, because it would make every turn but the first a repetition.
"""

from __future__ import annotations

import contextlib
from typing import Final
from urllib.parse import urlsplit

from gateway.errors import GatewayError
from gateway.http.auth_throttle import AuthThrottle
from gateway.http.client import Client
from gateway.http.connection_client import client_of
from gateway.http.request_cycle import EXTENSION, RequestCycle
from gateway.http.websocket_connection import WebSocketConnection
from gateway.http.websocket_handshake import accept, is_upgrade, offered_protocols
from gateway.identity.api_keys import key_of_request
from gateway.ledger.known_responses import KnownResponses
from gateway.observability.metrics.counters import Counters
from gateway.observability.request_record import new_request_id
from gateway.protocol.operations import PREFIX
from gateway.proxy.dry_run import is_dry_run
from gateway.types import Headers, Receive, Scope, Send
from gateway.websocket.sockets import Sockets

_KEY_PROTOCOL: Final = "openai-insecure-api-key."
_VENDOR_PREFIX: Final = "openai-"
_METHOD: Final = "WS"
"""The method of turns in logs."""
_UPGRADE_ONLY: Final = frozenset(
    {b"connection", b"upgrade", b"idempotency-key", b"content-type", b"content-length", b"content-encoding"}
    | {b"origin", b"expect", b"te", b"transfer-encoding"}
)
_UPGRADE_ONLY_PREFIX: Final = b"sec-websocket-"


def is_websocket(scope: Scope) -> bool:
    """Whether a request asks for WebSocket mode."""
    return (
        scope["method"] == "GET"
        and scope["path"] == PREFIX
        and any(name == b"upgrade" for name, _ in scope["headers"])
        and is_upgrade(dict(scope["headers"]))
    )


class Upgrades:
    """Answers upgrades. `sockets`: all open WebSockets of the worker."""

    def __init__(
        self,
        sockets: Sockets,
        responses: KnownResponses,
        counters: Counters,
        throttle: AuthThrottle,
        origins: frozenset[str],
        *,
        numeric_codes: bool,
    ) -> None:
        self.sockets = sockets
        self._responses = responses
        self._counters = counters
        self._throttle = throttle
        self._origins = origins
        self._numeric_codes = numeric_codes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one upgrade."""
        cycle: RequestCycle | None = scope.get("extensions", {}).get(EXTENSION)
        client, socket_id = client_of(scope, receive, send), new_request_id()
        named: Headers = [(b"x-request-id", socket_id.encode())]
        try:
            self._refuse_unserved(cycle)
            self._refuse_origin(client.fields)
            protocols = offered_protocols(client.headers)
            headers = _turn_headers(client, _key_headers(client, protocols))
            key = key_of_request(dict(headers))
            _refuse_dry_run(client)
            chosen = next((name for name in protocols if not name.startswith(_VENDOR_PREFIX)), None)
            protocol, head = accept(scope, self.sockets.policy.message, chosen, named)
            await self._responses.check(key)
            self.sockets.admit(key.key_id)
        except GatewayError as error:
            throttled = self._throttle.throttle(scope, error)
            self._counters.note_answer(PREFIX, throttled.status, throttled.code)
            status, error_headers, body = throttled.render(numeric_codes=self._numeric_codes)
            await client.answer(status, [*error_headers, *named], body)
            return
        if cycle is None or cycle.disconnected:
            self.sockets.release(key.key_id)
            return
        self._counters.note_answer(PREFIX, 101, None)
        off_loop = self.sockets.handler.snapshot.off_loop
        connection = WebSocketConnection(cycle.detach(), protocol, self.sockets.policy.socket, off_loop)
        turn_scope = {**scope, "method": _METHOD, "headers": headers, "extensions": {}}
        connection.begin(self.sockets.open(connection, turn_scope, socket_id, key.key_id), head)

    def _refuse_unserved(self, cycle: RequestCycle | None) -> None:
        sockets = self.sockets
        rules = sockets.handler.snapshot.router.rules.values()
        if cycle is None or not sockets.policy.enabled or not any(rule.websocket for rule in rules):
            raise GatewayError("websocket_unsupported", "This gateway speaks HTTP: POST /v1/responses.")
        if sockets.stopping:
            raise GatewayError("shutting_down", "This gateway is stopping. Connect again.", wait_ms=1000)

    def _refuse_origin(self, fields: dict[bytes, bytes]) -> None:
        """Refuses pages of other origins, which browsers name. WebSocket has no preflight request."""
        origin = fields.get(b"origin")
        if origin is None:
            return
        text = origin.decode("latin-1")
        with contextlib.suppress(ValueError):
            if text in self._origins or urlsplit(text).netloc == fields.get(b"host", b"").decode("latin-1"):
                return
        raise GatewayError(
            "origin_not_allowed",
            f"Pages of the origin {text!r} may not use this gateway. Its operator allows origins in "
            "server.cors_origins.",
        )


def _key_headers(client: Client, protocols: list[str]) -> Headers:
    """Returns a browser's key as the header that other clients send. Raises GatewayError for two keys."""
    keys = {name.removeprefix(_KEY_PROTOCOL) for name in protocols if name.startswith(_KEY_PROTOCOL)}
    if len(keys) > 1 or (keys and b"authorization" in client.fields):
        raise GatewayError("invalid_api_key", "The request carries two API keys. Send one.")
    return [(b"authorization", f"Bearer {key}".encode("latin-1", "replace")) for key in keys]


def _refuse_dry_run(client: Client) -> None:
    if is_dry_run(client):
        raise GatewayError("invalid_field", "Ask for a dry run by POST.", param="x-gateway-dry-run")


def _turn_headers(client: Client, key: Headers) -> Headers:
    """Returns the headers of the upgrade that each turn gets."""
    own = [
        (name, value)
        for name, value in client.headers
        if name not in _UPGRADE_ONLY and not name.startswith(_UPGRADE_ONLY_PREFIX)
    ]
    return own + key


async def refuse_elsewhere(receive: Receive, send: Send) -> None:
    """Answers 426 on another ASGI server, whose WebSocket messages the gateway does not use."""
    error = GatewayError("websocket_unsupported", "This gateway speaks HTTP: POST /v1/responses.")
    status, headers, body = error.render()
    await receive()
    try:
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    except Exception:  # noqa: BLE001 - the server lacks this extension of ASGI, and may raise anything
        await send({"type": "websocket.close"})
