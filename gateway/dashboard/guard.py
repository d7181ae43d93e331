"""Checks before and after every page: the session, the form's CSRF token, and the headers of the answer.

OpenRoute     requires no session: the sign-in page, the style sheet, the script
PageRoute     requires a session, or leads to the sign-in page, which keeps a form; forms need the session's CSRF token

Errors of the admin API become pages with the same status. A CSRF token is an HMAC of the session's cookie: it needs no
storage, and the token of another session does not fit. `Sec-Fetch-Site` is checked too if the browser sends it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import parse_qsl, quote

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gateway.accounts.admin_keys import Admin
from gateway.dashboard.admin_client import AdminApiError, AdminClient
from gateway.dashboard.render import html
from gateway.dashboard.sign_in_page import CSRF, KeptForm, csrf_of, sign_in_page
from gateway.errors import GatewayError
from gateway.http.asgi_client import AsgiClient
from gateway.http.client import ClientDisconnected
from gateway.types import Message

if TYPE_CHECKING:
    from gateway.accounts.sessions import Sessions
    from gateway.accounts.sign_in import SingleSignOn
    from gateway.config.settings import Settings

COOKIE: Final = "gateway_session"
MAX_FORM: Final = 64 * 1024
MAX_FIELDS: Final = 100
PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "content-security-policy": PAGE_POLICY,
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
)
_READ_METHODS: Final = ("GET", "HEAD")
_VISIT: Final = "gateway.dashboard.visit"
_FORM: Final = "gateway.dashboard.form"
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Services(Protocol):
    """The services that the dashboard uses besides the admin API."""

    settings: Settings
    sessions: Sessions
    sign_on: SingleSignOn | None


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of an admin who is signed in."""

    token: str
    admin: Admin
    api: AdminClient
    base_url: str
    """What programs use to reach the gateway, as far as can be told from where the browser found the dashboard."""

    @property
    def may_change_all(self) -> bool:
        """Whether forms that change teams, credits and upstreams are shown.

        The API decides whether a change is permitted.
        """
        return self.admin.scope == "all"

    @property
    def may_change_keys(self) -> bool:
        """Whether forms that change keys are shown. The API decides whether a change is permitted."""
        return self.admin.scope in ("all", "team")

    @property
    def sees_all(self) -> bool:
        """Whether the admin sees more than one team."""
        return self.admin.scope != "team"

    @property
    def csrf(self) -> str:
        """The token that every form must send back."""
        return csrf_of(self.token)


def services_of(request: Request) -> Services:
    """The application's services."""
    return cast("Services", request.app.state.services)


def root_key_of(request: Request) -> bytes:
    """Returns the root admin key. It is empty if none is configured, and then nobody can sign in."""
    key = services_of(request).settings.admin.key
    return key.get_secret_value().encode() if key is not None else b""


def visit_of(request: Request) -> Visit:
    """Returns who is signed in. Valid on a PageRoute."""
    return cast("Visit", request.scope[_VISIT])


def form_of(request: Request) -> Mapping[str, str]:
    """Returns the fields of the form that are not empty."""
    return cast("Mapping[str, str]", request.scope[_FORM])


def check_csrf(request: Request, cookie: str) -> None:
    """Raises AdminApiError unless the dashboard created the form for this cookie."""
    sent = form_of(request).get(CSRF, "")
    ours = bool(cookie) and hmac.compare_digest(sent.encode(), csrf_of(cookie).encode())
    if not ours or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise AdminApiError(
            403, "not_allowed", "This form was out of date. Go back, reload the page and send it again."
        )


class OpenRoute(APIRoute):
    """A route that requires no session."""

    def get_route_handler(self) -> _Handler:
        """Returns FastAPI's own handler, with the dashboard's errors and headers."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                if request.method not in _READ_METHODS:
                    request.scope[_FORM] = await _read_form(request)
                answer = await self.enter(request, handle)
            except ClientDisconnected:
                # the client has left; 499 is nginx's status for that
                return Response(status_code=499)
            except GatewayError as error:
                answer = _error_page(request, AdminApiError(error.status, error.code, error.message, error.param))
                answer.headers.update({name.decode(): value.decode() for name, value in error.headers()})
            except AdminApiError as refused:
                answer = _error_page(request, refused)
            for name, value in HEADERS.items():
                answer.headers.setdefault(name, value)
            return answer

        return guarded

    async def enter(self, request: Request, handle: _Handler) -> Response:
        """Passes the request on."""
        return await handle(request)


class PageRoute(OpenRoute):
    """A route that requires a session."""

    async def enter(self, request: Request, handle: _Handler) -> Response:
        """Passes the request on with its Visit, or redirects to the sign-in page."""
        token = request.cookies.get(COOKIE, "")
        admin = await services_of(request).sessions.find(token, root_key_of(request))
        if admin is None or not root_key_of(request):
            if (kept := _kept(request, token)) is not None:
                return sign_in_page(request, "/dashboard", kept=kept)
            asked = request.url.path if request.method in _READ_METHODS else "/dashboard"
            return redirect_to(f"/dashboard/login?next={quote(asked, safe='')}")
        request.scope[_VISIT] = Visit(token, admin, AdminClient(request, admin), _base_url(request))
        if request.method not in _READ_METHODS:
            check_csrf(request, token)
        return await handle(request)


def redirect_to(path: str) -> Response:
    """Redirects to another page with GET. `path` is a path of the dashboard whose variable parts are quoted."""
    return Response(status_code=303, headers={"location": path})


def _kept(request: Request, token: str) -> KeptForm | None:
    """Returns the form that an expired session leaves behind, if the dashboard made it for that session's cookie.

    A form of another site has no such token, and so nobody can put one before a user who signs in.
    """
    if request.method in _READ_METHODS or not token:
        return None
    try:
        check_csrf(request, token)
    except AdminApiError:
        return None
    fields = {name: value for name, value in form_of(request).items() if name != CSRF}
    return KeptForm(request.url.path, fields)


def _base_url(request: Request) -> str:
    """Returns the base URL of the API: on the port of this page, unless operators have a port of their own."""
    settings = services_of(request).settings
    forwarded = request.headers.get("x-forwarded-proto", "").split(",")[0].strip()
    scheme = forwarded if forwarded in ("http", "https") else request.url.scheme
    place = request.url.netloc
    if settings.admin.port is not None:
        place = f"{place.removesuffix(f':{settings.admin.port}')}:{settings.server.port}"
    return f"{scheme}://{place}/v1"


async def _read_form(request: Request) -> Mapping[str, str]:
    client = AsgiClient(request.scope, request.receive, _send_nothing)
    body = await client.read_body(MAX_FORM, services_of(request).settings.server.body_timeout_s)
    try:
        return MappingProxyType(dict(parse_qsl(body.decode(), max_num_fields=MAX_FIELDS)))
    except ValueError:
        raise AdminApiError(400, "invalid_field", "This is not a form of the dashboard.") from None


async def _send_nothing(message: Message) -> None:
    del message


def _error_page(request: Request, refused: AdminApiError) -> Response:
    return html("error.html", refused.status, visit=request.scope.get(_VISIT), here="", refused=refused)
