"""/admin/v1/teams/{team}/keys/{key}/rotate, and /admin/v1/keys/{key} for callers who know only a key's id."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.api.admin.access import refuse_other_team
from gateway.api.admin.guard import GuardedRoute, idempotency_key_of
from gateway.api.admin.request_models import NewRotation
from gateway.api.admin.serialization import key_json
from gateway.api.dependencies import services_of

router = APIRouter(route_class=GuardedRoute)


@router.post("/teams/{team}/keys/{key}/rotate")
async def rotate_key(request: Request, response: Response, team: str, key: str, body: NewRotation) -> dict[str, Any]:
    """Gives the key a new secret, which works at once. The old secrets work until their overlap ends.

    `key` is the new text, which is not shown again. A repeat with the same Idempotency-Key returns the same text, or
    null if the secret was replaced since or the root admin key changed.
    """
    services = services_of(request)
    owner = await services.accounts.team(team)
    found = await services.accounts.key(owner, key)
    idempotency_key = idempotency_key_of(request, "rotate", owner.id, found.id, body.overlap_s)
    rotated, text = await services.rotation.rotate(owner, found, body.overlap_s, idempotency_key)
    response.headers["cache-control"] = "no-store"
    response.headers["etag"] = f'"{rotated.version}"'
    [view] = await services.accounts.views([(owner.id, rotated.id)])
    return {**key_json(rotated, view), "key": text or None}


@router.get("/keys/{key}")
async def find_key(request: Request, response: Response, key: str) -> dict[str, Any]:
    """One key, found by its id alone. `team_id` names its team."""
    accounts = services_of(request).accounts
    owner, found = await accounts.find_key(key)
    refuse_other_team(request, owner.id)
    response.headers["etag"] = f'"{found.version}"'
    [view] = await accounts.views([(owner.id, found.id)])
    return {**key_json(found, view), "team_name": owner.name}
