"""A team's keys: create, rotate, limit, disable, revoke. Only the answer to its creation contains a key's text.

The form field `idempotency_key` becomes the API header Idempotency-Key. Reloading the answer shows the same text and
creates nothing more.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.accounts.entities import ARCHIVED, ENDED
from gateway.dashboard import forms
from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import PageRoute, form_of, visit_of
from gateway.dashboard.teams import changed, team_page, team_path, unconfirmed

router = APIRouter(prefix="/teams/{team}/keys", route_class=PageRoute)


@router.post("")
async def create_key(request: Request, team: str) -> Response:
    """Creates a key and shows its text."""
    visit, form = visit_of(request), form_of(request)
    body = {
        "name": form.get("name", ""),
        "limits": forms.given_limits(form),
        "expires_at": forms.expiry(form),
        **forms.permissions(form),
    }
    try:
        created = await visit.api.change(
            "POST", team_path(team, "/keys"), body, idempotency_key=form.get("idempotency_key")
        )
    except AdminApiError as refused:
        return await team_page(visit, team, refused=refused, form=form, sent="new-key")
    return await team_page(visit, team, created={**created, "how": "made"})


@router.post("/{key}/rotate")
async def rotate_key(request: Request, team: str, key: str) -> Response:
    """Gives the key a new secret and shows its text. The old secrets work until their overlap ends."""
    visit, form = visit_of(request), form_of(request)
    path, body = _path(team, key, "/rotate"), forms.overlap(form)
    try:
        created = await visit.api.change("POST", path, body, idempotency_key=form.get("idempotency_key"))
    except AdminApiError as refused:
        return await team_page(visit, team, refused=refused, form=form, sent=f"rotate-{key}")
    return await team_page(visit, team, created={**created, "how": "rotated"})


@router.post("/{key}/limits")
async def change_limits(request: Request, team: str, key: str) -> Response:
    """Changes the key's limits, models, operations, label and expiry."""
    form = form_of(request)
    body = {"limits": forms.limits(form), "expires_at": forms.expiry(form), **forms.permissions(form)}
    body |= {"name": form["name"]} if "name" in form else {}
    return await changed(visit_of(request), team, _path(team, key), body, form, "key", f"limits-{key}")


@router.post("/{key}/overrides")
async def change_overrides(request: Request, team: str, key: str) -> Response:
    """Sets overrides of the key's limits, or ends one of them."""
    form = form_of(request)
    body = {"overrides": forms.overrides(form)}
    return await changed(visit_of(request), team, _path(team, key), body, form, "key", f"while-{key}")


@router.post("/{key}/status")
async def change_status(request: Request, team: str, key: str) -> Response:
    """Disables, enables, revokes or deletes the key. To revoke or delete it, its name must be typed."""
    visit, form = visit_of(request), form_of(request)
    status = form.get("status", "")
    if status in ENDED:
        found = await visit.api.get(_path(team, key))
        what = "revoke this key" if status == "revoked" else "delete this key"
        if (problem := unconfirmed(form, found["name"], what)) is not None:
            return await team_page(visit, team, refused=problem, form=form, sent=f"revoke-{key}")
    path, sent = _path(team, key), f"status-{key}"
    if status == ARCHIVED:
        return await changed(visit, team, path, None, form, "key-deleted", sent, method="DELETE")
    done = "revoked" if status == "revoked" else "key"
    return await changed(visit, team, path, {"status": status}, form, done, sent)


def _path(team: str, key: str, rest: str = "") -> str:
    return team_path(team, f"/keys/{forms.segment(key)}{rest}")
