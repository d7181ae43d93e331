"""The sign-in page, and the form that it keeps for somebody whose session has ended.

A form that was sent after the end of its session is not lost. The page contains it, and after signing in it is shown,
so that it can be sent again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, Self

from fastapi import Request, Response

from gateway.accounts.sign_in import SingleSignOn
from gateway.dashboard.render import html

CSRF: Final = "csrf"
BEFORE: Final = "gateway_sign_in"
"""The cookie that belongs to the sign-in form's CSRF token.

It keeps others from signing a browser in to their account.
"""
HOME: Final = "/dashboard"
_UNSHOWN: Final = frozenset({"version", "idempotency_key"})


class KeptForm(NamedTuple):
    """A form that was not sent: where it goes, and its fields."""

    path: str
    fields: Mapping[str, str]

    @classmethod
    def read(cls, path: str, fields: str) -> Self | None:
        """Returns the form that a sign-in page contains, or None."""
        try:
            found = json.loads(fields or "null")
        except ValueError:
            return None
        if not isinstance(found, dict) or own_path(path) != path:
            return None
        return cls(path, {str(name): str(value) for name, value in found.items()})

    @property
    def text(self) -> str:
        """The fields as JSON, as the sign-in page contains them."""
        return json.dumps(dict(self.fields))

    @property
    def shown(self) -> Mapping[str, str]:
        """The fields that the person has filled in."""
        return {name: value for name, value in self.fields.items() if name not in _UNSHOWN}


def sign_in_page(
    request: Request, wanted: str, problem: str = "", status: int = 200, *, kept: KeptForm | None = None
) -> Response:
    """Renders the page. `wanted` is shown after signing in, unless a form is kept."""
    single_sign_on: SingleSignOn | None = request.app.state.services.sign_on
    sign_on = single_sign_on.label if single_sign_on is not None else None
    cookie = request.cookies.get(BEFORE, "") or secrets.token_urlsafe(32)
    values = {"csrf": csrf_of(cookie), "wanted": wanted, "problem": problem, "kept": kept, "sign_on": sign_on}
    answer = html("login.html", status, visit=None, here="", **values)
    set_cookie(request, answer, BEFORE, cookie)
    return answer


def send_again_page(kept: KeptForm, token: str) -> Response:
    """Renders the kept form, to be sent in the session that has begun."""
    return html("send_again.html", visit=None, here="", kept=kept, csrf=csrf_of(token))


def csrf_of(cookie: str) -> str:
    """Returns the CSRF token that belongs to a cookie."""
    return hmac.new(cookie.encode(), b"csrf", hashlib.sha256).hexdigest()


def own_path(path: str) -> str:
    """Returns a page to show after signing in: one of the dashboard's, by default its first."""
    ours = path == HOME or (path.startswith(f"{HOME}/") and path.isprintable() and "\\" not in path)
    return path if ours and path.isascii() else HOME


def set_cookie(
    request: Request,
    answer: Response,
    name: str,
    value: str,
    *,
    path: str = HOME,
    same_site: Literal["strict", "lax"] = "strict",
    max_age_s: int | None = None,
) -> None:
    """Sets a cookie of the dashboard."""
    # A proxy that terminates TLS sets this header. A client that forges it harms only its own cookie.
    forwarded = request.headers.get("x-forwarded-proto", "").split(",")[0].strip()
    https = "https" in (request.url.scheme, forwarded)
    answer.set_cookie(name, value, path=path, httponly=True, samesite=same_site, secure=https, max_age=max_age_s)
