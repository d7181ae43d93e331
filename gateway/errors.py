"""The error catalogue as data, and the one function that renders an error.

    CATALOGUE: code -> (status, type, does waiting help?)

A step that fails raises `GatewayError(code, message, ...)`. `render` turns it into status, headers and body::

    {"error": {"message", "type", "param", "code", ...extra}}

`param` is "" where no field applies, and `code` is a string: Vercel's AI SDK shows a message only if both are strings.
Headers tell a program what to do. `Retry-After` and `retry-after-ms` are sent exactly where waiting helps and the time
is known. `x-should-retry: false` is sent where a repeat cannot help; openai-python otherwise retries 408, 409, 429 and
>= 500.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import orjson

JsonScalar = str | int | bool | None
NOTHING: Final[Mapping[str, JsonScalar]] = MappingProxyType({})
Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the catalogue.

    `retry` says what helps: "wait", "never", or "client" (the client decides by its own policy).
    """

    status: int
    type: str
    retry: Literal["wait", "never", "client"]


CATALOGUE: Final = MappingProxyType(
    {
        "invalid_http": Kind(400, "invalid_request", "never"),
        "invalid_json": Kind(400, "invalid_request", "never"),
        "missing_field": Kind(400, "invalid_request", "never"),
        "invalid_field": Kind(400, "invalid_request", "never"),
        "duplicate_field": Kind(400, "invalid_request", "never"),
        "invalid_config": Kind(400, "invalid_request", "never"),
        "invalid_item": Kind(400, "invalid_request_error", "never"),
        "previous_response_not_found": Kind(400, "invalid_request_error", "never"),
        "invalid_stream_id": Kind(400, "invalid_request_error", "never"),
        "websocket_connection_limit_reached": Kind(400, "invalid_request_error", "never"),
        "conversation_locked": Kind(400, "invalid_request_error", "never"),
        "invalid_api_key": Kind(401, "authentication_error", "never"),
        "invalid_admin_key": Kind(401, "authentication_error", "never"),
        "sign_in_failed": Kind(401, "authentication_error", "never"),
        "insufficient_quota": Kind(402, "insufficient_credits", "never"),
        "team_paused": Kind(402, "insufficient_credits", "never"),
        "model_not_allowed": Kind(403, "permission_denied", "never"),
        "operation_not_allowed": Kind(403, "permission_denied", "never"),
        "admin_disabled": Kind(403, "permission_denied", "never"),
        "field_not_allowed": Kind(403, "permission_denied", "never"),
        "not_allowed": Kind(403, "permission_denied", "never"),
        "origin_not_allowed": Kind(403, "permission_denied", "never"),
        "model_not_found": Kind(404, "not_found", "never"),
        "operation_not_offered": Kind(404, "not_found", "never"),
        "response_not_found": Kind(404, "not_found", "never"),
        "item_not_found": Kind(404, "not_found", "never"),
        "conversation_not_found": Kind(404, "not_found", "never"),
        "team_not_found": Kind(404, "not_found", "never"),
        "key_not_found": Kind(404, "not_found", "never"),
        "request_not_found": Kind(404, "not_found", "never"),
        "unknown_url": Kind(404, "not_found", "never"),
        "method_not_allowed": Kind(405, "invalid_request", "never"),
        "admin_key_not_found": Kind(404, "not_found", "never"),
        "upstream_not_found": Kind(404, "not_found", "never"),
        "recipient_not_found": Kind(404, "not_found", "never"),
        "upstream_timeout": Kind(408, "timeout", "client"),
        "request_timeout": Kind(408, "timeout", "never"),
        "request_in_progress": Kind(409, "conflict", "wait"),
        "already_answered": Kind(409, "conflict", "never"),
        "steering_failed": Kind(409, "invalid_request_error", "never"),
        "already_exists": Kind(409, "conflict", "never"),
        "idempotency_mismatch": Kind(409, "conflict", "never"),
        "too_many_secrets": Kind(409, "conflict", "wait"),
        "version_mismatch": Kind(412, "invalid_request", "never"),
        "body_too_large": Kind(413, "invalid_request", "never"),
        "unsupported_media_type": Kind(415, "invalid_request", "never"),
        "upgrade_unsupported": Kind(426, "invalid_request", "never"),
        "websocket_unsupported": Kind(426, "invalid_request", "never"),
        "rate_limit_exceeded": Kind(429, "too_many_requests", "wait"),
        "concurrency_exceeded": Kind(429, "too_many_requests", "wait"),
        "background_queue_full": Kind(429, "too_many_requests", "wait"),
        "too_many_turns": Kind(429, "too_many_requests", "wait"),
        "too_many_sockets": Kind(429, "too_many_requests", "wait"),
        "too_many_failures": Kind(429, "too_many_requests", "wait"),
        "too_many_bodies": Kind(503, "server_error", "wait"),
        "too_many_connections": Kind(503, "server_error", "wait"),
        "headers_too_large": Kind(431, "invalid_request", "never"),
        "internal_error": Kind(500, "server_error", "client"),
        "upstream_unreachable": Kind(502, "model_error", "client"),
        "upstream_invalid_response": Kind(502, "model_error", "client"),
        "upstream_rejected_gateway": Kind(502, "model_error", "never"),
        "no_available_provider": Kind(503, "server_error", "wait"),
        "identity_provider_unavailable": Kind(503, "server_error", "wait"),
        "disk_unavailable": Kind(503, "server_error", "client"),
        "store_unavailable": Kind(503, "server_error", "wait"),
        "shutting_down": Kind(503, "server_error", "wait"),
    }
)


CLOSING: Final = frozenset({"request_timeout", "upgrade_unsupported", "websocket_unsupported"})
"""Codes that end the connection, because a part of the request was not read (RFC 9110, section 15.5.9)."""


UPGRADE_REQUIRED: Final = 426
_OF_STATUS: Final[Mapping[int, tuple[Header, ...]]] = MappingProxyType(
    {
        401: ((b"www-authenticate", b'Bearer realm="gateway"'),),  # RFC 9110, section 15.5.2
        UPGRADE_REQUIRED: ((b"upgrade", b"HTTP/1.1"),),  # RFC 9110, section 15.5.22
    }
)
"""Headers that the standard wants with a status."""


class Cause(NamedTuple):
    """Why an error happened, for operators: the log, and what they look up. The client does not read it.

    `reason` is a word from a fixed list, for metrics; `detail` is text.
    """

    reason: str
    detail: str


UNEXPLAINED: Final = Cause("", "")


class GatewayError(Exception):
    """A refusal or failure that the client reads.

    `wait_ms` is the time until a repeat can succeed, or None if waiting does not help or the time is unknown. `explain`
    holds further fields of the body (`limit`, `scope`, `limit_source`, `resets_at`, ...). Raises KeyError at
    construction for a code that the catalogue does not have. `headers` go out with it. `repeat_helps` is False if a
    client must not repeat the request although it may with this code. `cause` is for operators alone.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str = "",
        wait_ms: int | None = None,
        explain: Mapping[str, JsonScalar] = NOTHING,
        headers: tuple[Header, ...] = (),
        repeat_helps: bool = True,
        cause: Cause = UNEXPLAINED,
    ) -> None:
        super().__init__(message)
        self.kind = CATALOGUE[code]
        self.code = code
        self.message = message
        self.param = param
        self.wait_ms = wait_ms
        self.explain = explain
        self.more_headers = headers
        self.repeat_helps = repeat_helps
        self.cause = cause

    @property
    def status(self) -> int:
        """The HTTP status, from the catalogue."""
        return self.kind.status

    def body(self, *, numeric_codes: bool = False) -> dict[str, dict[str, JsonScalar]]:
        """Returns the error body.

        `numeric_codes` puts the status into `code`, which is the form that Siraya documents.
        """
        error: dict[str, JsonScalar] = {
            "message": self.message,
            "type": self.kind.type,
            "param": self.param,
            "code": self.status if numeric_codes else self.code,
            **self.explain,
        }
        if self.wait_ms is not None:
            error["retry_after"] = _seconds(self.wait_ms)
        return {"error": error}

    def headers(self) -> list[Header]:
        """Returns the headers that apply: `Retry-After` (rounded up to seconds), `retry-after-ms`, `x-should-retry`."""
        headers = [*_OF_STATUS.get(self.status, ()), *self.more_headers]
        if self.code in CLOSING:
            headers.append((b"connection", b"close, upgrade" if self.status == UPGRADE_REQUIRED else b"close"))
        if self.wait_ms is not None:
            headers.append((b"retry-after", b"%d" % _seconds(self.wait_ms)))
            headers.append((b"retry-after-ms", b"%d" % self.wait_ms))
        elif self.kind.retry == "never" or self.permanent or not self.repeat_helps:
            headers.append((b"x-should-retry", b"false"))
        return headers

    @property
    def permanent(self) -> bool:
        """True if waiting usually helps with this code, but not with this error, because the limit never resets."""
        return self.kind.status in (402, 429) and self.wait_ms is None

    def render(
        self, other_body: Mapping[str, object] | None = None, *, numeric_codes: bool = False
    ) -> tuple[int, list[Header], bytes]:
        """Returns status, headers (with content-type and content-length) and the JSON body.

        `other_body` replaces what `body` returns, for an API whose errors have another form.
        """
        body = orjson.dumps(self.body(numeric_codes=numeric_codes) if other_body is None else other_body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *self.headers(),
        ]
        return self.status, headers, body


def _seconds(wait_ms: int) -> int:
    return max(1, -(-wait_ms // 1000))
