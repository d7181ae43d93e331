"""/admin/v1/teams/{team}/credits."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.accounts.entities import ARCHIVED
from gateway.api.admin.guard import GuardedRoute, idempotency_key_of
from gateway.api.admin.moments import epoch_ms
from gateway.api.admin.request_models import Movement
from gateway.api.admin.serialization import credits_json
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError

router = APIRouter(prefix="/teams/{team}/credits", route_class=GuardedRoute)


@router.get("")
async def show_credits(request: Request, team: str) -> dict[str, Any]:
    """A team's balance."""
    accounts = services_of(request).accounts
    owner = await accounts.team(team)
    return credits_json(owner, await accounts.view(owner))


@router.post("")
async def move_credits(request: Request, team: str, body: Movement) -> dict[str, Any]:
    """Grants or adjusts credits, once per Idempotency-Key, and returns the present balance."""
    if body.amount_usd == 0 or (body.kind == "grant" and body.amount_usd < 0):
        needed = "A grant must be over 0." if body.kind == "grant" else "An adjustment must not be 0."
        raise GatewayError("invalid_field", f"amount_usd: {needed}", param="amount_usd")
    accounts = services_of(request).accounts
    owner = await accounts.team(team)
    if owner.status == ARCHIVED and body.amount_usd > 0:
        raise GatewayError("not_allowed", "This team was deleted: nobody could use these credits.")
    idempotency_key = idempotency_key_of(request)
    await accounts.move_credits(
        owner,
        body.kind,
        body.amount_usd,
        note=body.note,
        idempotency_key=idempotency_key.key if idempotency_key else None,
        expires_ms=epoch_ms(body.expires_at) if body.expires_at else None,
    )
    return credits_json(owner, await accounts.view(owner))
