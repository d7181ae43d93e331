"""What surrounds every route: ports, browsers, headers, counts.

| a request                                          | gets                                              |
|----------------------------------------------------|---------------------------------------------------|
| for /admin, /dashboard or /metrics, not on         | 404, as if it were not there                      |
| `admin.port` although that is set                  |                                                   |
| for /v1 on `admin.port`                            | 404                                               |
| a preflight of an origin in `server.cors_origins`  | 204, and what it may                              |
| any other preflight                                | 403 origin_not_allowed, which says what to set    |
| of such an origin                                  | its answer, streams too, with CORS headers        |
| HEAD for any route but the request line's          | what GET gets, without the body (RFC 9110, 9.3.2) |
| to any route but the request line's                | x-request-id, headers for browsers, its count     |

CORS is for /v1 alone: no page of another origin is to reach the admin API.
Fetch standard, "HTTP CORS protocol"; the headers for browsers are those of OWASP's REST cheat sheet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from gateway.config.settings import Settings
from gateway.errors import GatewayError
from gateway.http.request_cycle import EXTENSION, RequestCycle
from gateway.observability.metrics.counters import Counters
from gateway.observability.request_record import new_request_id
from gateway.types import Headers, Message, Receive, Scope, Send

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID: Final = "gateway.request_id"
"""Where an ASGI scope has the request's id."""
ERROR_CODE: Final = "gateway.error_code"
"""Where an ASGI scope has the code of the error that was answered."""

NOSNIFF: Final = ("x-content-type-options", "nosniff")
_FOR_BROWSERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_OPERATORS: Final = ("/admin", "/dashboard", "/metrics")
_ON_BOTH: Final = ("/healthz", "/readyz")
_METHODS: Final = b"GET, POST, DELETE"
_EXPOSED: Final = (
    b"x-request-id, x-upstream-request-id, retry-after, retry-after-ms, x-should-retry, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_PREFLIGHT_S: Final = b"600"


class RouteMiddleware:
    """The rules of the table above. `is_bare`: none of them touches the request line."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._origins = frozenset(origin.encode() for origin in settings.server.cors_origins)
        self._admin_port = settings.admin.port
        self._numeric_codes = settings.errors.numeric_codes
        self._counters = counters
        self.is_bare = not self._origins and self._admin_port is None

    def serves_request(self, scope: Scope) -> bool:
        """Whether the request line is served where this request came in."""
        return self._admin_port is None or _port(scope) != self._admin_port

    def add_cors(self, scope: Scope, send: Send) -> Send:
        """Adds the CORS headers that an allowed origin needs, to whatever the answer will be."""
        origin = _header(scope, b"origin")
        if origin is None or origin not in self._origins or not scope["path"].startswith("/v1/"):
            return send
        headers: Headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]
        wire: RequestCycle | None = scope.get("extensions", {}).get(EXTENSION)
        if wire is not None:
            wire.add_headers(headers)
            return send

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        return send_with_cors

    async def serve(self, app: Asgi, scope: Scope, receive: Receive, send: Send) -> None:
        """A request for one of the application's routes."""
        scope.get("extensions", {}).pop(EXTENSION, None)  # a Wire that its own scope leads to would be garbage
        if scope["method"] == "HEAD":  # the server sends no body: it goes by a scope of its own
            scope = {**scope, "method": "GET"}
        scope[REQUEST_ID] = new_request_id()
        send = self._with_standard_headers(scope, send)
        refusal = self._refused_port(scope)
        if refusal is None and _is_preflight(scope):
            refusal = self._refused_origin(scope)
            if refusal is None:
                await self._allow(scope, send)
                return
        if refusal is None:
            await app(scope, receive, send)
            return
        scope[ERROR_CODE] = refusal.code
        status, headers, body = refusal.render(numeric_codes=self._numeric_codes)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _with_standard_headers(self, scope: Scope, send: Send) -> Send:
        """Every answer names its request, tells browsers what not to do with it, and is counted."""
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


def _pattern(scope: Scope) -> str:
    """The route's path, with its prefix: FastAPI names a route by its path below the router that includes it."""
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
    """Where the connection came in: the socket's own port, which no header changes."""
    server = scope.get("server")
    return server[1] if server else None
