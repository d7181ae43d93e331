"""/admin/v1/sign-in: signing in at the identity provider from a command line, by a code to enter there (RFC 8628).

    POST /sign-in          begins: returns the provider's page and the code to enter there
    POST /sign-in/token    returns the admin key once the person has signed in; it is shown once
    DELETE /sign-in        ends the sign-in of the key that sends the request

The first two need no key. Attempts are counted by address.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field

from gateway.accounts.sign_in import SingleSignOn
from gateway.api.admin.access import admin_of
from gateway.api.admin.guard import GuardedRoute, with_bounded_body
from gateway.api.admin.request_models import Body, example
from gateway.api.admin.serialization import admin_json
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError

OPEN: Final = ("POST /sign-in", "POST /sign-in/token")
"""The actions that need no admin key."""
_POLLS: Final = 10
"""How many polls an address may send for each permitted attempt to sign in."""


class DeviceCode(Body):
    """POST /sign-in/token."""

    model_config = example({"device_code": "the device_code of POST /sign-in"})

    device_code: Annotated[str, Field(min_length=1, max_length=4096)]


class OpenAdminRoute(APIRoute):
    """A route that requires no admin key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's own handler, behind a bounded reading of the body."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await with_bounded_body(request, handle)

        return bounded


open_router = APIRouter(route_class=OpenAdminRoute)
router = APIRouter(route_class=GuardedRoute)


@open_router.post("/sign-in")
async def begin(request: Request, response: Response) -> dict[str, Any]:
    """Begins a sign-in. Open `verification_uri`, enter `user_code` there, and poll for the token meanwhile."""
    sign_on = _sign_on(request)
    await services_of(request).sessions.count_attempt(request.app.state.host_of(request.scope))
    device = await sign_on.begin_device()
    response.headers["cache-control"] = "no-store"
    return {
        "object": "sign_in",
        "device_code": device.device_code,
        "user_code": device.user_code,
        "verification_uri": device.verification_uri,
        "verification_uri_complete": device.verification_uri_complete,
        "expires_in_s": device.expires_in_s,
        "interval_s": device.interval_s,
    }


@open_router.post("/sign-in/token")
async def complete(request: Request, response: Response, body: DeviceCode) -> dict[str, Any]:
    """Returns the admin key of a sign-in that is complete; 202 while it is not."""
    sign_on = _sign_on(request)
    await services_of(request).sessions.count_attempt(request.app.state.host_of(request.scope), "polls", _POLLS)
    admitted = await sign_on.admit_device(body.device_code)
    response.headers["cache-control"] = "no-store"
    if admitted is None:
        response.status_code = 202
        return {"object": "sign_in", "status": "pending"}
    admin, text = admitted
    return {**admin_json(admin), "key": text}


@router.delete("/sign-in")
async def end(request: Request) -> dict[str, Any]:
    """Ends the sign-in of the admin key that sends the request. An admin key that no sign-in created stays."""
    admin = admin_of(request)
    if not admin.subject:
        raise GatewayError("admin_key_not_found", "No sign-in has created this admin key. Delete it instead.")
    await services_of(request).admins.delete(admin)
    return {**admin_json(admin), "deleted": True}


def _sign_on(request: Request) -> SingleSignOn:
    services = services_of(request)
    if services.sign_on is None or services.settings.admin.key is None:
        raise GatewayError("admin_disabled", "Sign-in by an identity provider is not configured here.")
    return services.sign_on
