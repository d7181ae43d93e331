"""Every error in one format: the gateway's own, FastAPI's, and unexpected ones.

GatewayError             as it says
RequestValidationError   400 invalid_field, with the location of the field
404, 405                 unknown_url, method_not_allowed
anything else            500 internal_error; the log has the reason
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway.api.middleware import ERROR_CODE
from gateway.api.nearby_paths import nothing_at
from gateway.errors import GatewayError
from gateway.types import Scope

Throttle = Callable[[Scope, GatewayError], GatewayError]
"""Replaces an error before it is sent: `auth_throttle.AuthThrottle.throttle`."""


def install(app: FastAPI, throttle: Throttle, *, numeric_codes: bool) -> None:
    """Registers the handlers."""

    def answer(request: Request, error: GatewayError, more: Mapping[str, str] | None = None) -> Response:
        request.scope[ERROR_CODE] = error.code
        status, headers, body = error.render(numeric_codes=numeric_codes)
        named = {name.decode(): value.decode() for name, value in headers}
        return Response(body, status, {**named, **(more or {})})

    async def gateway_error(request: Request, error: Exception) -> Response:
        return answer(request, throttle(request.scope, cast("GatewayError", error)))

    async def invalid(request: Request, error: Exception) -> Response:
        return answer(request, _invalid_field(cast("RequestValidationError", error)))

    async def http_error(request: Request, error: Exception) -> Response:
        found = cast("HTTPException", error)
        return answer(request, _from_http(request, found), found.headers)  # a 405 lists the permitted methods

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
    return GatewayError(code, f"{place or 'The body'}: {first['msg'].removeprefix('Value error, ')}.", param=place)


def _from_http(request: Request, error: HTTPException) -> GatewayError:
    method, path = request.method, request.url.path
    if error.status_code == 404:  # noqa: PLR2004 - an HTTP status
        return GatewayError("unknown_url", nothing_at(method, path))
    if error.status_code == 405:  # noqa: PLR2004 - an HTTP status
        return GatewayError("method_not_allowed", f"{path} does not support {method}.")
    return GatewayError("invalid_field", str(error.detail))
