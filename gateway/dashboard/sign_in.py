"""Signing in with an admin key, and signing out. The key is sent to the admin API once and not kept."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.dashboard.admin_client import AdminApiError, AdminClient
from gateway.dashboard.guard import (
    COOKIE,
    OpenRoute,
    PageRoute,
    check_csrf,
    form_of,
    redirect_to,
    root_key_of,
    services_of,
    visit_of,
)
from gateway.dashboard.sign_in_page import BEFORE, HOME, KeptForm, own_path, send_again_page, set_cookie, sign_in_page

router = APIRouter()
_open = APIRouter(route_class=OpenRoute)
_signed_in = APIRouter(route_class=PageRoute)


@_open.get("/login")
async def show_sign_in(request: Request) -> Response:
    """The sign-in page."""
    return sign_in_page(request, own_path(request.query_params.get("next", "")))


@_open.post("/login")
async def sign_in(request: Request) -> Response:
    """Opens a session for a valid admin key. A form that was kept is shown, to be sent once more."""
    form = form_of(request)
    wanted = own_path(form.get("next", ""))
    kept = KeptForm.read(form.get("kept_path", ""), form.get("kept_fields", ""))
    check_csrf(request, request.cookies.get(BEFORE, ""))
    sessions = services_of(request).sessions
    if kept is not None and form.get("signed_in"):  # in another tab
        token = request.cookies.get(COOKIE, "")
        if await sessions.find(token, root_key_of(request)) is not None:
            return send_again_page(kept, token)
        return sign_in_page(request, wanted, "You are not signed in yet.", 401, kept=kept)
    host: str = request.app.state.host_of(request.scope)
    try:
        admin = await AdminClient(request, None).whoami(form.get("key", "").strip())
    except AdminApiError as refused:
        if refused.status not in (401, 403):
            raise
        await sessions.count_failure(host)
        invalid = refused.status == 401  # noqa: PLR2004 - an HTTP status
        problem = "This admin key is not valid." if invalid else refused.message
        return sign_in_page(request, wanted, problem, refused.status, kept=kept)
    token = await sessions.open(admin["id"], root_key_of(request))
    answer = redirect_to(wanted) if kept is None else send_again_page(kept, token)
    set_cookie(request, answer, COOKIE, token)
    answer.delete_cookie(BEFORE, path=HOME, httponly=True, samesite="strict")
    return answer


@_signed_in.post("/logout")
async def sign_out(request: Request) -> Response:
    """Ends the session."""
    await services_of(request).sessions.close(visit_of(request).token)
    answer = redirect_to("/dashboard/login")
    answer.delete_cookie(COOKIE, path=HOME, httponly=True, samesite="strict")
    return answer


router.include_router(_open)
router.include_router(_signed_in)
