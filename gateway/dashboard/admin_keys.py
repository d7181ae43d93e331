"""Admin keys of people who run the gateway, read it, or manage one team. A key's text is shown once, at creation."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gateway.dashboard import forms
from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import PageRoute, Visit, form_of, redirect_to, visit_of
from gateway.dashboard.overview import team_names
from gateway.dashboard.render import html

router = APIRouter(prefix="/admin-keys", route_class=PageRoute)
SCOPES: Final[Mapping[str, str]] = MappingProxyType(
    {"team": "lead one team", "read": "look at everything", "all": "do everything"}
)


@router.get("")
async def list_admin_keys(request: Request) -> Response:
    """The page of all admin keys."""
    notice = "The admin key is revoked: it is refused from now on." if request.query_params.get("done") else ""
    return await _page(visit_of(request), notice=notice)


@router.post("")
async def create_admin_key(request: Request) -> Response:
    """Creates an admin key and shows its text."""
    visit, form = visit_of(request), form_of(request)
    body: dict[str, Any] = {"name": form.get("name", ""), "scope": form.get("scope", "")}
    if form.get("scope") == "team":
        body["team"] = form.get("team")
    body["expires_at"] = forms.expiry(form)
    try:
        created = await visit.api.change("POST", "/admin-keys", body, idempotency_key=form.get("idempotency_key"))
    except AdminApiError as refused:
        return await _page(visit, refused=refused, form=form)
    return await _page(visit, created={**created, "how": "made"})


@router.post("/{admin_key}/rotate")
async def rotate_admin_key(request: Request, admin_key: str) -> Response:
    """Gives an admin key a new secret and shows its text. The old secrets work until their overlap ends."""
    visit, form = visit_of(request), form_of(request)
    path, body = f"/admin-keys/{forms.segment(admin_key)}/rotate", forms.overlap(form)
    try:
        rotated = await visit.api.change("POST", path, body, idempotency_key=form.get("idempotency_key"))
    except AdminApiError as refused:
        return await _page(visit, refused=refused, form=form, sent=f"rotate-{admin_key}")
    return await _page(visit, created={**rotated, "how": "rotated"})


@router.post("/{admin_key}/revoke")
async def revoke_admin_key(request: Request, admin_key: str) -> Response:
    """Deletes an admin key. Its name must be typed."""
    visit, form = visit_of(request), form_of(request)
    found = await visit.api.get("/admin-keys")
    name = next((key["name"] for key in found["data"] if key["id"] == admin_key), None)
    if name is None:
        raise AdminApiError(404, "admin_key_not_found", "There is no such admin key. It may have been revoked before.")
    if form.get("confirm", "").strip() != name.strip():
        problem = AdminApiError(400, "invalid_field", f"To revoke this admin key, type its name: {name}", "confirm")
        return await _page(visit, refused=problem, form=form, sent=f"revoke-{admin_key}")
    await visit.api.change("DELETE", f"/admin-keys/{forms.segment(admin_key)}")
    return redirect_to("/dashboard/admin-keys?done=revoked")


async def _page(
    visit: Visit,
    *,
    notice: str = "",
    refused: AdminApiError | None = None,
    form: Mapping[str, str] = MappingProxyType({}),
    sent: str = "",
    created: Mapping[str, Any] | None = None,
) -> Response:
    found, teams = await asyncio.gather(visit.api.get("/admin-keys"), team_names(visit, None))
    return html(
        "admin_keys.html",
        refused.status if refused is not None else 200,
        visit=visit,
        here="admin-keys",
        keys=found["data"],
        names={key["id"]: key["name"] for key in found["data"]} | {"root": "root"},
        teams=teams,
        scopes=SCOPES,
        notice=notice,
        refused=refused,
        form=form,
        sent=sent,
        created=created,
        idempotency_key=secrets.token_hex(16),
    )
