"""GET /v1/key: the caller's limits and what remains of them, the balance and the expiry, as they are enforced."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.accounts.serialization import balance_json, limits_json, pause_json, time_json
from gateway.api.dependencies import caller_of

router = APIRouter()


@router.get("/v1/key")
async def show_key(request: Request) -> dict[str, Any]:
    """Describes the caller's key."""
    caller = await caller_of(request)
    team, key, view = caller.team, caller.key, caller.view
    return {
        "object": "key",
        "id": key.id,
        "name": key.name,
        "expires_at": time_json(key.expires_ms),
        "models": list(key.models),
        "operations": list(key.operations),
        "limits": limits_json(view, "key", key),
        "team": {
            "id": team.id,
            "name": team.name,
            "expires_at": time_json(team.expires_ms),
            "models": list(team.models),
            "operations": list(team.operations),
            "metered": team.metered,
            "paused": pause_json(team.paused),
            "timezone": team.timezone or "UTC",
            "anchor": team.anchor or None,
            "balance": balance_json(view.balance),
            "limits": limits_json(view, "team", team),
        },
    }
