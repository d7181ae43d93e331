"""GET /v1/responses with an upgrade: who asks, from where, and whether there is room. Then the socket begins.

| an upgrade                                                    | answer                                             |
|---------------------------------------------------------------|----------------------------------------------------|
| where WebSocket is off: `websocket.enabled`, every route      | 426: clients such as Codex go on over HTTP at once |
| on another ASGI server than the gateway's own                 | the same                                           |
| while the gateway stops                                       | 503 with Retry-After                               |
| from a page of an origin that `server.cors_origins` lacks     | 403                                                |
| without a key that is alive                                   | 401                                                |
| that asks for a dry run                                       | 400: a dry run is a POST                           |
| that is no handshake, or of another version                   | 400, 426                                           |
| of a key with `max_per_key` sockets                           | 429                                                |

Browsers cannot set a header: there the key comes as the subprotocol `openai-insecure-api-key.<key>`, beside one that is
chosen in the answer. It is never chosen itself, and no turn has it in its headers. The same holds for an idempotency
key: it would make every turn but the first a repetition.
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
_OF_A_VENDOR: Final = "openai-"
_METHOD: Final = "WS"
"""What turns have in logs, where other requests have HTTP's method."""
_NOT_A_TURNS: Final = frozenset(
    {b"connection", b"upgrade", b"idempotency-key", b"content-type", b"content-length", b"content-encoding"}
    | {b"origin", b"expect", b"te", b"transfer-encoding"}
)
_NOT_A_TURNS_PREFIX: Final = b"sec-websocket-"


def is_websocket(scope: Scope) -> bool:
    """Whether a request asks for WebSocket mode."""
    return (
        scope["method"] == "GET"
        and scope["path"] == PREFIX
        and any(name == b"upgrade" for name, _ in scope["headers"])
        and is_upgrade(dict(scope["headers"]))
    )


class Upgrades:
    """Answers upgrades. `sockets`: all that have begun."""

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
        """One upgrade."""
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
            chosen = next((name for name in protocols if not name.startswith(_OF_A_VENDOR)), None)
            protocol, head = accept(scope, self.sockets.policy.message, chosen, named)
            await self._responses.check(key)
            self.sockets.admit(key.key_id)
        except GatewayError as error:
            told = self._throttle.throttle(scope, error)
            self._counters.note_answer(PREFIX, told.status, told.code)
            status, told_by, body = told.render(numeric_codes=self._numeric_codes)
            await client.answer(status, [*told_by, *named], body)
            return
        if cycle is None or cycle.disconnected:
            self.sockets.give_back(key.key_id)
            return
        self._counters.note_answer(PREFIX, 101, None)
        connection = WebSocketConnection(cycle.detach(), protocol, self.sockets.policy.socket)
        of_turns = {**scope, "method": _METHOD, "headers": headers, "extensions": {}}
        connection.begin(self.sockets.open(connection, of_turns, socket_id, key.key_id), head)

    def _refuse_unserved(self, cycle: RequestCycle | None) -> None:
        sockets = self.sockets
        rules = sockets.handler.snapshot.router.rules.values()
        if cycle is None or not sockets.policy.enabled or not any(rule.websocket for rule in rules):
            raise GatewayError("websocket_unsupported", "This gateway speaks HTTP: POST /v1/responses.")
        if sockets.stopping:
            raise GatewayError("shutting_down", "This gateway is stopping. Connect again.", wait_ms=1000)

    def _refuse_origin(self, fields: dict[bytes, bytes]) -> None:
        """Browsers name the page that asks. WebSocket has no preflight, so the answer itself is refused."""
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
    """A browser's key in the header where other clients have theirs. Raises GatewayError for two keys."""
    keys = {name.removeprefix(_KEY_PROTOCOL) for name in protocols if name.startswith(_KEY_PROTOCOL)}
    if len(keys) > 1 or (keys and b"authorization" in client.fields):
        raise GatewayError("invalid_api_key", "The request carries two API keys. Send one.")
    return [(b"authorization", f"Bearer {key}".encode("latin-1", "replace")) for key in keys]


def _refuse_dry_run(client: Client) -> None:
    if is_dry_run(client):
        raise GatewayError("invalid_field", "Ask for a dry run by POST.", param="x-gateway-dry-run")


def _turn_headers(client: Client, key: Headers) -> Headers:
    """What each turn has of its upgrade's headers."""
    kept = [
        (name, value)
        for name, value in client.headers
        if name not in _NOT_A_TURNS and not name.startswith(_NOT_A_TURNS_PREFIX)
    ]
    return kept + key


async def refuse_elsewhere(receive: Receive, send: Send) -> None:
    """Answers 426 on an ASGI server that accepts WebSocket itself: its messages are not the gateway's."""
    error = GatewayError("websocket_unsupported", "This gateway speaks HTTP: POST /v1/responses.")
    status, headers, body = error.render()
    await receive()
    try:
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    except Exception:  # noqa: BLE001 - the server has not this extension of ASGI; what it raises is its own
        await send({"type": "websocket.close"})
