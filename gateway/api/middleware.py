"""Applies to every route: ports, CORS, headers, counts.

 request                                            | answer                                            |
----------------------------------------------------|---------------------------------------------------|
 for /admin, /dashboard or /metrics on another port | 404, as if the path did not exist                 |
 than a configured `admin.port`                     |                                                   |
 for /v1 on `admin.port`                            | 404                                               |
 preflight from an origin in `server.cors_origins`  | 204, with what is permitted                       |
 any other preflight                                | 403 origin_not_allowed, which names the setting   |
 from such an origin                                | its answer, streams too, with CORS headers        |
 HEAD for any route but the model requests'         | as for GET, without the body (RFC 9110, 9.3.2)    |
 to any route but the model requests'               | x-request-id, headers for browsers, its count     |

CORS applies to /v1 only: no page of another origin may reach the admin API. Fetch standard, "HTTP CORS protocol". The
headers for browsers are those of OWASP's REST Security Cheat Sheet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from gateway.config.settings import Settings
from gateway.errors import GatewayError
from gateway.http.head import has_control
from gateway.http.request_cycle import EXTENSION, RequestCycle
from gateway.observability.metrics.counters import Counters
from gateway.observability.request_record import new_request_id
from gateway.protocol.error_forms import error_body
from gateway.types import Headers, Message, Receive, Scope, Send

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID: Final = "gateway.request_id"
"""The field of an ASGI scope that holds the request's id."""
ERROR_CODE: Final = "gateway.error_code"
"""The field of an ASGI scope that holds the code of the error that was sent."""

NOSNIFF: Final = ("x-content-type-options", "nosniff")
_FOR_BROWSERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_OPERATORS: Final = ("/admin", "/dashboard", "/metrics")
_ON_BOTH: Final = ("/", "/healthz", "/readyz")
_METHODS: Final = b"GET, POST, DELETE"
_EXPOSED: Final = (
    b"x-request-id, x-upstream-request-id, retry-after, retry-after-ms, x-should-retry, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_PREFLIGHT_S: Final = b"600"


class RouteMiddleware:
    """Applies the rules of the table above. `is_bare` means that none of them concerns model requests."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._origins = frozenset(origin.encode() for origin in settings.server.cors_origins)
        self._admin_port = settings.admin.port
        self._numeric_codes = settings.errors.numeric_codes
        self._counters = counters
        self.is_bare = not self._origins and self._admin_port is None

    def serves_request(self, scope: Scope) -> bool:
        """Whether model requests are served on the port where this request arrived."""
        return self._admin_port is None or _port(scope) != self._admin_port

    def add_cors(self, scope: Scope, send: Send) -> Send:
        """Adds the CORS headers of an allowed origin to the answer."""
        origin = _header(scope, b"origin")
        if origin is None or origin not in self._origins or not scope["path"].startswith("/v1/"):
            return send
        headers: Headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]
        cycle: RequestCycle | None = scope.get("extensions", {}).get(EXTENSION)
        if cycle is not None:
            cycle.add_headers(headers)
            return send

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        return send_with_cors

    async def serve(self, app: Asgi, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request for one of the application's routes."""
        scope.get("extensions", {}).pop(EXTENSION, None)  # a RequestCycle in its own scope would be a reference cycle
        if scope["method"] == "HEAD":  # the server sends no body for HEAD; it reads the method from a scope of its own
            scope = {**scope, "method": "GET"}
        scope[REQUEST_ID] = new_request_id()
        send = self._with_standard_headers(scope, send)
        refusal = self._refused_port(scope)
        if has_control(scope["path"]):  # the gateway's own connections refuse it before; other servers may not
            refusal = GatewayError("invalid_http", "A path has no control characters.")
        if refusal is None and _is_preflight(scope):
            refusal = self._refused_origin(scope)
            if refusal is None:
                await self._allow(scope, send)
                return
        if refusal is None:
            await app(scope, receive, send)
            return
        scope[ERROR_CODE] = refusal.code
        told = error_body(
            scope["path"], scope["headers"], refusal, scope[REQUEST_ID], numeric_codes=self._numeric_codes
        )
        status, headers, body = refusal.render(told)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _with_standard_headers(self, scope: Scope, send: Send) -> Send:
        """Adds the request id and the headers for browsers to the answer, and counts it."""
        ours = ((b"x-request-id", scope[REQUEST_ID].encode()), *_FOR_BROWSERS)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name for name, _ in headers}
                message["headers"] = [*headers, *(header for header in ours if header[0] not in present)]
                self._counters.note_answer(_pattern(scope), message["status"], scope.get(ERROR_CODE))
            await send(message)

        return send_counted

    def _refused_port(self, scope: Scope) -> GatewayError | None:
        path: str = scope["path"]
        if self._admin_port is None or path in _ON_BOTH:
            return None
        if path.startswith(_OPERATORS) == (_port(scope) == self._admin_port):
            return None
        return GatewayError("unknown_url", f"There is nothing at {scope['method']} {path}.")

    def _refused_origin(self, scope: Scope) -> GatewayError | None:
        origin = (_header(scope, b"origin") or b"").decode("latin-1")
        if not scope["path"].startswith("/v1/"):
            return GatewayError("origin_not_allowed", "Pages of other origins may not use this path.")
        if origin.encode("latin-1") in self._origins:
            return None
        return GatewayError(
            "origin_not_allowed",
            f"Pages of the origin {origin!r} may not use this gateway. Its operator allows origins in "
            "server.cors_origins.",
        )

    async def _allow(self, scope: Scope, send: Send) -> None:
        headers = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _header(scope, b"access-control-request-headers") or b""),
            (b"access-control-max-age", _PREFLIGHT_S),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def has_operators(admin_port: int | None, scope: Scope) -> bool:
    """Whether /admin, /dashboard and /metrics are served on the port where this request arrived."""
    return admin_port is None or _port(scope) == admin_port


def _pattern(scope: Scope) -> str:
    """Returns the route's path with its prefix.

    FastAPI names only the path below the router that includes the route.
    """
    pattern: str = getattr(scope.get("route"), "path", "other")
    parts = scope["path"].split("/")
    before = len(parts) - len(pattern.split("/"))
    return (
        pattern if before <= 0 or ":path}" in pattern or pattern == "other" else "/".join(parts[: before + 1]) + pattern
    )


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method") is not None


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for known, value in scope["headers"] if known == name), None)


def _port(scope: Scope) -> int | None:
    """Returns the port of the socket that accepted the connection, which no header can change."""
    server = scope.get("server")
    return server[1] if server else None
