"""/admin/v1/admin-keys: keys for people and programs that run the gateway. Also /whoami, and /audit: what they did."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.api.admin.access import admin_of, team_asked
from gateway.api.admin.answers import page_answer
from gateway.api.admin.feasibility import refuse_past
from gateway.api.admin.guard import GuardedRoute, idempotency_key_of
from gateway.api.admin.query_parameters import After, Limit
from gateway.api.admin.request_models import NewAdminKey, NewRotation
from gateway.api.admin.serialization import action_json, admin_json
from gateway.api.dependencies import services_of

router = APIRouter(route_class=GuardedRoute)


@router.get("/whoami")
async def who_am_i(request: Request) -> dict[str, Any]:
    """Whose admin key this is, and what it permits."""
    own = await team_asked(request, None)
    return {**admin_json(admin_of(request)), "team_name": own.name if own else None}


@router.get("/admin-keys")
async def list_admin_keys(request: Request) -> dict[str, Any]:
    """All admin keys except the root key, oldest first."""
    admins = await services_of(request).admins.admins()
    return {"object": "list", "data": [admin_json(admin) for admin in admins], "next": None}


@router.post("/admin-keys", status_code=201)
async def create_admin_key(request: Request, response: Response, body: NewAdminKey) -> dict[str, Any]:
    """Creates an admin key.

    `key` is its text, which is not shown again; null for a repeat after the root admin key changed.
    """
    services = services_of(request)
    team_id = (await services.accounts.team(body.team)).id if body.team is not None else ""
    idempotency_key = idempotency_key_of(request, "admin key", body.model_dump(mode="json", exclude_unset=True))
    if body.expires_at:
        refuse_past(int(body.expires_at.timestamp() * 1000))
    admin, text = await services.admins.create(
        body.name,
        body.scope,
        team_id=team_id,
        expires_ms=int(body.expires_at.timestamp() * 1000) if body.expires_at else 0,
        created_by=admin_of(request).id,
        idempotency_key=idempotency_key,
    )
    response.headers["cache-control"] = "no-store"
    return {**admin_json(admin), "key": text or None}


@router.post("/admin-keys/{admin_key}/rotate")
async def rotate_admin_key(request: Request, response: Response, admin_key: str, body: NewRotation) -> dict[str, Any]:
    """Gives the admin key a new secret, which works at once. The old secrets work until their overlap ends.

    `key` is the new text, which is not shown again. A repeat with the same Idempotency-Key returns the same text, or
    null if the secret was replaced since or the root admin key changed.
    """
    admins = services_of(request).admins
    found = await admins.admin(admin_key)
    idempotency_key = idempotency_key_of(request, "rotate admin key", found.id, body.overlap_s)
    rotated, text = await admins.rotate(found, body.overlap_s, idempotency_key)
    response.headers["cache-control"] = "no-store"
    return {**admin_json(rotated), "key": text or None}


@router.delete("/admin-keys/{admin_key}")
async def delete_admin_key(request: Request, admin_key: str) -> dict[str, Any]:
    """Deletes an admin key. Its next request is refused."""
    admins = services_of(request).admins
    admin = await admins.admin(admin_key)
    await admins.delete(admin)
    return {**admin_json(admin), "deleted": True}


@router.get("/audit", response_model=dict[str, Any])
async def list_actions(request: Request, limit: Limit = 100, after: After = None, team: str | None = None) -> Response:
    """What admins changed, newest first; for one team or for everything."""
    owner = await team_asked(request, team)
    page = await services_of(request).audit_log.read(owner.id if owner else None, limit, after)
    return await page_answer(services_of(request).store, map(action_json, page.data), page)
