"""GET /v1/key: the caller's own limits, what is left of them, balance and expiry. The numbers that are enforced."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.api.callers import caller_of
from gateway.ledger.shapes import balance_shape, limits_shape, time_shape

router = APIRouter()


@router.get("/v1/key")
async def show_key(request: Request) -> dict[str, Any]:
    """What the caller's key is and may."""
    caller = await caller_of(request)
    team, key, view = caller.team, caller.key, caller.view
    return {
        "object": "key",
        "id": key.id,
        "name": key.name,
        "expires_at": time_shape(key.expires_ms),
        "models": list(key.models),
        "limits": limits_shape(view.key, view.now_ms),
        "team": {
            "id": team.id,
            "name": team.name,
            "expires_at": time_shape(team.expires_ms),
            "models": list(team.models),
            "metered": team.metered,
            "balance": balance_shape(view.balance),
            "limits": limits_shape(view.team, view.now_ms),
        },
    }
