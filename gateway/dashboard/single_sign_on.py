"""Signing in at the identity provider: authorization code with PKCE (RFC 7636), state and nonce.

    GET /dashboard/login/oidc        to the provider
    GET /dashboard/login/callback    back from it, with a code

Nothing is stored between the two. The browser keeps a random value in a cookie, from which state, nonce and verifier
are derived: another browser cannot complete this sign-in, and this one cannot be made to complete another's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request, Response

from gateway.accounts.sign_in import SingleSignOn
from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import COOKIE, OpenRoute, root_key_of, services_of
from gateway.dashboard.render import html
from gateway.dashboard.sign_in_page import own_path, set_cookie
from gateway.errors import GatewayError

router = APIRouter(route_class=OpenRoute)
CHALLENGE: Final = "gateway_oidc"
_PATH: Final = "/dashboard/login"
_VALID_S: Final = 600
_MAX_CODE_CHARACTERS: Final = 4096


@router.get("/login/oidc")
async def leave_for_provider(request: Request) -> Response:
    """Redirects to the identity provider."""
    sign_on = _sign_on(request)
    value = secrets.token_urlsafe(32)
    verifier = _derived(value, "verifier")
    digest = hashlib.sha256(verifier.encode()).digest()
    url = await sign_on.provider.authorization_url(
        redirect_uri=_redirect_uri(request),
        state=_derived(value, "state"),
        nonce=_derived(value, "nonce"),
        challenge=base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
    )
    wanted = own_path(request.query_params.get("next", ""))
    answer = Response(status_code=303, headers={"location": url})
    set_cookie(
        request, answer, CHALLENGE, f"{value}.{wanted.encode().hex()}", path=_PATH, same_site="lax", max_age_s=_VALID_S
    )
    return answer


@router.get("/login/callback")
async def return_from_provider(request: Request) -> Response:
    """Opens a session for the person whom the provider has sent back."""
    sign_on, services = _sign_on(request), services_of(request)
    value, _, wanted = request.cookies.get(CHALLENGE, "").partition(".")
    query = request.query_params
    if not value or not hmac.compare_digest(query.get("state", "").encode(), _derived(value, "state").encode()):
        raise AdminApiError(403, "sign_in_failed", "This sign-in was begun elsewhere, or too long ago. Begin again.")
    try:
        person = await sign_on.provider.person_by_code(
            _code_of(query),
            redirect_uri=_redirect_uri(request),
            verifier=_derived(value, "verifier"),
            nonce=_derived(value, "nonce"),
        )
        admin, _text = await sign_on.admit(person)
    except GatewayError as error:
        if error.code == "sign_in_failed":
            await services.sessions.count_failure(request.app.state.host_of(request.scope))
        raise
    token = await services.sessions.open(admin.id, root_key_of(request))
    # A page instead of a redirect, because browsers send no SameSite=Strict cookie on a navigation from another site.
    answer = html("signed_in.html", visit=None, here="", wanted=own_path(_text_of(wanted)), name=admin.name)
    set_cookie(request, answer, COOKIE, token)
    answer.delete_cookie(CHALLENGE, path=_PATH, httponly=True, samesite="lax")
    return answer


def _sign_on(request: Request) -> SingleSignOn:
    sign_on = services_of(request).sign_on
    if sign_on is None or not root_key_of(request):
        raise AdminApiError(404, "unknown_url", "Sign-in by an identity provider is not configured here.")
    return sign_on


def _code_of(query: Mapping[str, str]) -> str:
    if "error" in query:
        raise GatewayError("sign_in_failed", f"The identity provider refused: {query['error'][:200]}.")
    return query.get("code", "")[:_MAX_CODE_CHARACTERS]


def _derived(value: str, purpose: str) -> str:
    return hmac.new(value.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def _redirect_uri(request: Request) -> str:
    """Returns this gateway's address for the provider's answer, which the provider compares with the registered one."""
    forwarded = request.headers.get("x-forwarded-proto", "").split(",")[0].strip()
    scheme = forwarded if forwarded in ("http", "https") else request.url.scheme
    return f"{scheme}://{request.url.netloc}/dashboard/login/callback"


def _text_of(encoded: str) -> str:
    try:
        return bytes.fromhex(encoded).decode()
    except ValueError:
        return ""
