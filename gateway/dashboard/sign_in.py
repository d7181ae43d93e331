"""Signing in with an admin key, and signing out. The key is sent to the admin API once and not kept."""

from __future__ import annotations

import secrets
from typing import Final

from fastapi import APIRouter, Request, Response

from gateway.dashboard.admin_client import AdminApiError, AdminClient
from gateway.dashboard.guard import (
    COOKIE,
    OpenRoute,
    PageRoute,
    check_csrf,
    csrf_of,
    form_of,
    redirect_to,
    root_key_of,
    services_of,
    visit_of,
)
from gateway.dashboard.render import html

router = APIRouter()
_open = APIRouter(route_class=OpenRoute)
_signed_in = APIRouter(route_class=PageRoute)
BEFORE: Final = "gateway_sign_in"
"""The cookie that belongs to the sign-in form's CSRF token.

It keeps others from signing a browser in to their account.
"""
_HOME: Final = "/dashboard"
_PATH: Final = "/dashboard"


@_open.get("/login")
async def show_sign_in(request: Request) -> Response:
    """The sign-in page."""
    return _page(request, _next(request.query_params.get("next", "")))


@_open.post("/login")
async def sign_in(request: Request) -> Response:
    """Opens a session for a valid admin key."""
    form = form_of(request)
    wanted = _next(form.get("next", ""))
    check_csrf(request, request.cookies.get(BEFORE, ""))
    sessions = services_of(request).sessions
    host: str = request.app.state.host_of(request.scope)
    try:
        admin = await AdminClient(request, None).whoami(form.get("key", "").strip())
    except AdminApiError as refused:
        if refused.status not in (401, 403):
            raise
        await sessions.count_failure(host)
        return _page(request, wanted, refused)
    token = await sessions.open(admin["id"], root_key_of(request))
    answer = redirect_to(wanted)
    _set(request, answer, COOKIE, token)
    answer.delete_cookie(BEFORE, path=_PATH, httponly=True, samesite="strict")
    return answer


@_signed_in.post("/logout")
async def sign_out(request: Request) -> Response:
    """Ends the session."""
    await services_of(request).sessions.close(visit_of(request).token)
    answer = redirect_to("/dashboard/login")
    answer.delete_cookie(COOKIE, path=_PATH, httponly=True, samesite="strict")
    return answer


def _page(request: Request, wanted: str, refused: AdminApiError | None = None) -> Response:
    cookie = request.cookies.get(BEFORE, "") or secrets.token_urlsafe(32)
    problem = refused.message if refused is not None else ""
    if refused is not None and refused.status == 401:  # noqa: PLR2004 - an HTTP status
        problem = "This admin key is not valid."
    answer = html(
        "login.html",
        refused.status if refused is not None else 200,
        visit=None,
        here="",
        csrf=csrf_of(cookie),
        wanted=wanted,
        problem=problem,
    )
    _set(request, answer, BEFORE, cookie)
    return answer


def _next(path: str) -> str:
    """Returns the page to show after signing in: one of the dashboard's, by default its first."""
    ours = path == _HOME or (path.startswith(f"{_HOME}/") and path.isprintable() and "\\" not in path)
    return path if ours and path.isascii() else _HOME


def _set(request: Request, answer: Response, name: str, value: str) -> None:
    # A proxy that terminates TLS sets this header. A client that forges it harms only its own cookie.
    forwarded = request.headers.get("x-forwarded-proto", "").split(",")[0].strip()
    https = "https" in (request.url.scheme, forwarded)
    answer.set_cookie(name, value, path=_PATH, httponly=True, samesite="strict", secure=https)


router.include_router(_open)
router.include_router(_signed_in)
