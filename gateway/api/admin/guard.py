"""Authentication of the admin API, and the bounds of what it reads. All of it happens before a body is parsed.

admin.key not set         403 admin_disabled       on every route
no key, or another key    401 invalid_admin_key    valid: the root key of the configuration, or a stored admin key
outside of the scope      403 not_allowed          access.RULES
body over MAX_BODY        413 body_too_large
too many at once          429 concurrency_exceeded   admin.max_parallel, admin.max_waiting

The audit entry of a change is written before its answer is sent.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine
from typing import Any, Final

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from gateway.accounts.accounts import IdempotencyKey
from gateway.accounts.admin_keys import ROOT, Admin
from gateway.accounts.sessions import SIGNED_IN
from gateway.api.admin.access import authorise
from gateway.api.admin.auditing import audited
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError
from gateway.http.asgi_client import AsgiClient
from gateway.http.client import ClientDisconnected
from gateway.identity.admin_keys import parse_admin_key
from gateway.types import Message

MAX_BODY: Final = 256 * 1024
MAX_IDEMPOTENCY_KEY: Final = 255
_READ_METHODS: Final = ("GET", "HEAD")


class GuardedRoute(APIRoute):
    """A route that requires an admin key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's own handler, wrapped in the checks above."""
        handle = super().get_route_handler()
        path = self.path

        async def guarded(request: Request) -> Response:
            admin = await require_admin(request)
            async with services_of(request).admin_turns.turn(admin.id):
                return await answer(request, admin)

        async def answer(request: Request, admin: Admin) -> Response:
            action = f"{request.method} {path}"
            rule = await authorise(action, request, admin)

            async def perform(again: Request) -> Response:
                if request.method in _READ_METHODS:
                    return await handle(again)
                return await audited(action, rule, again, handle)

            return await with_bounded_body(request, perform)

        return guarded


async def with_bounded_body(request: Request, handle: Callable[[Request], Coroutine[Any, Any, Response]]) -> Response:
    """Reads the body, bounded in size and time, and passes it on with the request."""
    try:
        body = await _read_body(request)
    except ClientDisconnected:
        # the client has left; 499 is nginx's status for that
        return Response(status_code=499)
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await request.receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return await handle(Request(request.scope, replay))


async def require_admin(request: Request) -> Admin:
    """Returns the admin who sent the request.

    Raises GatewayError `admin_disabled`, or `invalid_admin_key` for a missing or unknown key.
    """
    expected = _admin_key(request)
    signed_in = request.scope.get(SIGNED_IN)  # set by the dashboard, for an admin whose session it has verified
    if isinstance(signed_in, Admin):
        return signed_in
    admins, address = services_of(request).admins, request.app.state.host_of(request.scope)
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    presented = presented.strip()
    if scheme.lower() == "bearer":
        # Digests are compared, because compare_digest accepts only ASCII text and its duration reveals lengths.
        if hmac.compare_digest(_digest(presented.encode()), _digest(expected)):
            admins.note_sign_in(address, right=True)
            return ROOT
        created = parse_admin_key(presented)
        admin = await admins.recognise(created) if created is not None else None
        if admin is not None:
            admins.note_sign_in(address, right=True)
            return admin
    admins.note_sign_in(address, right=False)
    raise GatewayError("invalid_admin_key", "The admin key is not valid. Send 'Authorization: Bearer <admin key>'.")


def idempotency_key_of(request: Request, *parts: object) -> IdempotencyKey | None:
    """Returns the request's Idempotency-Key, bound to the content of the request, or None.

    Raises GatewayError `invalid_field`.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise GatewayError(
            "invalid_field",
            f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} characters.",
            param="Idempotency-Key",
        )
    asked = hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return IdempotencyKey(key, asked, _admin_key(request))


def version_of(request: Request) -> int | None:
    """Returns the version in `If-Match`, quoted or not, or None if it is absent or "*".

    Raises GatewayError `invalid_field`.
    """
    text = request.headers.get("if-match", "*").strip()
    if text == "*":
        return None
    number = text.removeprefix("W/").strip('"')
    if not (number.isascii() and number.isdigit() and len(number) <= 15):  # noqa: PLR2004 - the digits that a double holds exactly
        raise GatewayError("invalid_field", "If-Match must be the version of the object, a number.", param="If-Match")
    return int(number)


def _admin_key(request: Request) -> bytes:
    key = services_of(request).settings.admin.key
    if key is None:
        raise GatewayError("admin_disabled", "The admin API is off: this gateway has no admin.key configured.")
    return key.get_secret_value().encode()


async def _read_body(request: Request) -> bytes:
    client = AsgiClient(request.scope, request.receive, _send_nothing)
    if request.method in _READ_METHODS:
        return b""
    return bytes(await client.read_body(MAX_BODY, services_of(request).settings.server.body_timeout_s))


async def _send_nothing(message: Message) -> None:
    del message


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
