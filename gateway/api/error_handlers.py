"""Every error in the form that its caller reads: the gateway's own, FastAPI's, and unexpected ones.

GatewayError             as it says
RequestValidationError   400 invalid_field, with the location of the field
404, 405                 unknown_url, method_not_allowed: see `unserved`
anything else            500 internal_error; the log has the reason
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway.api.middleware import ERROR_CODE, REQUEST_ID
from gateway.api.unserved import refusal_of, wrong_method
from gateway.config.messages import message_of
from gateway.errors import GatewayError
from gateway.protocol.error_forms import error_body
from gateway.types import Scope

Throttle = Callable[[Scope, GatewayError], GatewayError]
"""Replaces an error before it is sent: `auth_throttle.AuthThrottle.throttle`."""


def install(app: FastAPI, throttle: Throttle, *, numeric_codes: bool) -> None:
    """Registers the handlers."""

    def answer(request: Request, error: GatewayError) -> Response:
        request.scope[ERROR_CODE] = error.code
        path, sent = request.scope["path"], request.headers.raw
        told = error_body(path, sent, error, request.scope.get(REQUEST_ID, ""), numeric_codes=numeric_codes)
        status, headers, body = error.render(told)
        return Response(body, status, {name.decode(): value.decode() for name, value in headers})

    async def gateway_error(request: Request, error: Exception) -> Response:
        return answer(request, throttle(request.scope, cast("GatewayError", error)))

    async def invalid(request: Request, error: Exception) -> Response:
        return answer(request, _invalid_field(cast("RequestValidationError", error)))

    async def http_error(request: Request, error: Exception) -> Response:
        found = cast("HTTPException", error)
        return answer(request, _from_http(request, found))

    async def unforeseen(request: Request, error: Exception) -> Response:
        structlog.get_logger("gateway.api").error("request_failed", path=request.url.path, exc_info=error)
        bug = GatewayError("internal_error", "The gateway failed. The operator's log has the reason.")
        return answer(request, bug)

    app.add_exception_handler(GatewayError, gateway_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unforeseen)


def _invalid_field(error: RequestValidationError) -> GatewayError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return GatewayError("invalid_json", "The body is not valid JSON.")
    place = ".".join(str(part) for part in first["loc"][1:])
    code = "missing_field" if first["type"] == "missing" else "invalid_field"
    message = message_of(first).rstrip(".")
    end = "" if message.endswith("?") else "."
    return GatewayError(code, f"{place or 'The body'}: {message}{end}", param=place)


def _from_http(request: Request, error: HTTPException) -> GatewayError:
    method, path = request.method, request.scope["path"]  # a URL drops control characters
    if error.status_code == 404:  # noqa: PLR2004 - an HTTP status
        return refusal_of(method, path)
    if error.status_code == 405:  # noqa: PLR2004 - an HTTP status
        methods = tuple(sorted((error.headers or {}).get("Allow", "").replace(" ", "").split(",")))
        return wrong_method(method, path, methods)
    return GatewayError("invalid_field", str(error.detail))
